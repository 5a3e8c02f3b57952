"""What the page learns of a real server: whether it composes slates, which diversity needs."""

import asyncio
import json
import urllib.error
import urllib.request

import polars as pl
import pytest
from tritonclient.grpc import InferenceServerClient

from deadlines import PATIENT
from ebbtide.data.catalog import Catalog
from ebbtide.data.dataset import Dataset
from ebbtide.data.events import build_log
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.serve import NO_STATE, ServerConfig
from ebbtide.studio import StudioData, pages
from servers import serving


@pytest.fixture(scope="module")
def data():
    catalog = Catalog(["1"], ["Heat"], ["Heat"])
    frame = pl.DataFrame([{"user": "ann", "item": "1", "time_ms": 0, "weight": 1.0}])
    return StudioData(Dataset(build_log(frame, catalog.index), catalog, None, None), weighted=False)


def offers(triton, data):
    def get(url):
        try:
            with urllib.request.urlopen(url + "/studio/offers", timeout=60) as answer:  # noqa: S310 - the gateway's URL
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    async def run():
        async with Gateway(GatewayConfig(triton=triton, http_port=0, client=PATIENT), pages=pages(data)) as gateway:
            return await asyncio.to_thread(get, gateway.http_url)

    return asyncio.run(run())


def test_slates_are_offered_when_the_server_has_the_model(tiny_export, data):
    config = ServerConfig(tiny_export.folder, state=NO_STATE, model_control="explicit", load_models=("*",))
    with serving(config) as triton:
        assert offers(triton.grpc_url, data) == (200, {"slates": True})
        # As an export of an earlier release, which has no such model.
        with InferenceServerClient(triton.grpc_url) as client:
            client.unload_model("recommend_slate")
        assert offers(triton.grpc_url, data) == (200, {"slates": False})


def test_offers_are_not_known_when_no_triton_answers(data):
    assert offers("127.0.0.1:9", data)[0] == 503
