"""Writes an audit as JSON, Markdown and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebbtide.train.audit.audit import Audit, Compared, ItemAudit, UserAudit
from ebbtide.train.audit.plots import draw
from ebbtide.train.evaluation.intervals import Estimate
from ebbtide.train.evaluation.report import markdown_table, without_nan, write_json


def as_json(found: Audit, about: dict[str, Any]) -> dict[str, Any]:
    """The audit as plain values; a number that does not exist is None.

    Args:
        found: Measured.
        about: What the lists are of: fingerprint, protocol, names.
    """
    content: dict[str, Any] = without_nan({**about, **_plain(asdict(found))})
    return content


def write_report(folder: Path, found: Audit, about: dict[str, Any], names: Sequence[str]) -> list[Path]:
    """Writes ``audit.md``, ``audit.json`` and the plots into a folder, which is made.

    Args:
        folder: May exist.
        found: Measured.
        about: As for `as_json`; has ``fingerprint`` and ``protocol``.
        names: Of the lists, one or two.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(folder, found, names)
    write_json(folder / "audit.json", as_json(found, about))
    (folder / "audit.md").write_text(_markdown(found, about, names, plots), encoding="utf-8")
    return [folder / name for name in ("audit.md", "audit.json", *plots)]


def overall_rows(found: Audit) -> list[list[str]]:
    """NDCG, Gini and coverage: name, before, after, difference."""
    before, after = found.coverage_at_10
    return [
        ["NDCG@10", *cells(found.ndcg_at_10, 4)],
        ["Gini of exposure", *cells(found.gini, 4)],
        ["Catalog coverage", f"{before:.1%}", *(() if after is None else (f"{after:.1%}", f"{after - before:+.1%}"))],
    ]


def item_rows(audited: ItemAudit) -> list[list[str]]:
    """Each group's items and shares: of the catalog, of the relevant items, of the exposure."""
    return [
        [
            *(row.label, f"{row.items:,}", f"{100 * row.catalog_share:.1f}", f"{100 * row.relevant_share.mean:.1f}"),
            *percentages(row.exposure_share),
        ]
        for row in audited.groups
    ]


def ratio_rows(audited: ItemAudit) -> list[list[str]]:
    """Each group's exposure over its relevant items and over its items, and its NDCG."""
    return [
        [
            row.label,
            *cells(row.exposure_to_relevant, 2)[:2],
            *cells(row.exposure_to_catalog, 2)[:2],
            *cells(row.ndcg_at_10, 4),
        ]
        for row in audited.groups
    ]


def contrast_rows(audited: ItemAudit) -> list[list[str]]:
    """The protected items against the unprotected ones."""
    if audited.contrast is None:
        return []
    return [
        ["exposure per relevant item, ratio", *cells(audited.contrast.relevant_ratio, 2)],
        ["exposure per item of the catalog, ratio", *cells(audited.contrast.catalog_ratio, 2)],
        ["NDCG@10, difference", *cells(audited.contrast.ndcg_difference, 4)],
    ]


def user_rows(audited: UserAudit) -> list[list[str]]:
    """Each group's users and baskets, its NDCG, and the head's share in its relevant items and in its lists."""
    return [
        [
            *(row.label, f"{row.users:,}", f"{row.baskets:,}", *cells(row.ndcg_at_10, 4)),
            *(f"{100 * row.head_relevant.mean:.1f}", *percentages(row.head_exposure)[:2]),
        ]
        for row in audited.groups
    ]


def cells(compared: Compared, digits: int) -> list[str]:
    """Before, and if there is one after and difference, each with its interval."""
    found = [_number(compared.before, digits)]
    if compared.after is not None and compared.difference is not None:
        found += [_number(compared.after, digits), _number(compared.difference, digits, signed=True)]
    return found


def percentages(compared: Compared) -> list[str]:
    """As `cells`, in percent."""

    def scaled(one: Estimate | None) -> Estimate | None:
        return None if one is None else Estimate(100 * one.mean, 100 * one.low, 100 * one.high)

    return cells(Compared(*map(scaled, (compared.before, compared.after, compared.difference))), 1)  # type: ignore[arg-type]


def _number(found: Estimate, digits: int, *, signed: bool = False) -> str:
    if not math.isfinite(found.mean):
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    if math.isnan(found.low):
        return format(found.mean, form)
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a dataclass
    """Tuples as lists, so that `without_nan` sees what is in them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _markdown(found: Audit, about: dict[str, Any], names: Sequence[str], plots: dict[str, str]) -> str:
    measured = [*names, *([f"{names[1]} minus {names[0]}"] if len(names) > 1 else [])]
    protocol = str(about["protocol"])
    parts = [
        f"# Audit of bundle {about['fingerprint']}",
        f"{protocol[0].upper()}{protocol[1:]}. {found.users:,} users, {found.baskets:,} baskets, {found.items:,} items "
        "in the catalog. Shares and means are taken within each user, then over users; in brackets the 95 % interval "
        "(bootstrap over users, paired where lists are compared). Items and users without a value are a group of their "
        "own. What the numbers mean and what they do not: docs/responsible.md.",
        markdown_table(["first ten ranks", *measured], overall_rows(found)),
    ]
    parts += [f"![{title}]({name})" for name, title in plots.items() if name.startswith("concentration")]
    for index, items in enumerate(found.item_audits):
        parts += [
            f"## {items.title}",
            markdown_table(["", "items", "catalog, %", "relevant, %", *_of("exposure, %", measured)], item_rows(items)),
            markdown_table(
                ["", *_of("exposure / relevant", names), *_of("exposure / catalog", names), *_of("NDCG@10", measured)],
                ratio_rows(items),
            ),
        ]
        if items.contrast is not None:
            parts.append(markdown_table(["protected against unprotected", *measured], contrast_rows(items)))
        parts += [f"![{title}]({name})" for name, title in plots.items() if name.startswith(f"items-{index + 1}-")]
    for index, users in enumerate(found.user_audits):
        headings = ["", "users", "baskets", *_of("NDCG@10", measured), "head of the relevant, %"]
        parts += [
            f"## {users.title}",
            markdown_table([*headings, *_of("head of the exposure, %", names)], user_rows(users)),
        ]
        if users.ndcg_difference is not None:
            rows = [["NDCG@10, difference", *cells(users.ndcg_difference, 4)]]
            parts.append(markdown_table(["protected against unprotected", *measured], rows))
        parts += [f"![{title}]({name})" for name, title in plots.items() if name.startswith(f"users-{index + 1}-")]
    return "\n\n".join(parts) + "\n"


def _of(what: str, names: Sequence[str]) -> list[str]:
    return [what] if len(names) == 1 else [f"{what}, {name}" for name in names]
