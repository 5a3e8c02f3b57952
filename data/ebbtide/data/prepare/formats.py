"""The public data sets that can be read, by name."""

from __future__ import annotations

from ebbtide.data.prepare import (
    amazon_2023,
    eb_nerd,
    lastfm_1k,
    mind,
    movielens,
    online_retail,
    retailrocket,
    yambda,
)
from ebbtide.data.prepare.source import Source

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (mind, eb_nerd, yambda, amazon_2023, lastfm_1k, retailrocket, movielens, online_retail)
}
