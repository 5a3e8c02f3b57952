"""Texts of items, made from several columns."""

from __future__ import annotations

import polars as pl


def clean(text: pl.Expr) -> pl.Expr:
    """A text with single spaces; null if nothing is left."""
    trimmed = text.cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(trimmed != "").then(trimmed)


def sentences(*parts: pl.Expr) -> pl.Expr:
    """Parts joined as sentences, as in ``Toy Story (1995). Adventure, Animation``; null if all are empty."""
    ended = [clean(part).str.strip_chars_end(". ") for part in parts]
    joined = pl.concat_str(ended, separator=". ", ignore_nulls=True).str.replace_all(r"([?!])\. ", "$1 ")
    return clean(joined)


def unescape(text: pl.Expr) -> pl.Expr:
    """A text whose common HTML entities are replaced by their characters."""
    entities = {"&quot;": '"', "&#34;": '"', "&#39;": "'", "&apos;": "'", "&lt;": "<", "&gt;": ">", "&nbsp;": " "}
    # The ampersand last: "&amp;lt;" stands for the four characters "&lt;".
    return text.str.replace_many(entities).str.replace_all("&amp;", "&", literal=True)
