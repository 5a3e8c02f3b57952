"""Writes the pages: ``python -m benchmarks.page``; ``--check`` fails if a page differs from the results."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.page.build import PLOTS, benchmarks_page, capacity_page, plots, responsible_page

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"


def main() -> None:
    """Writes or checks the pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is stale")
    arguments = parser.parse_args()
    stale = stale_pages()
    if arguments.check:
        if stale:
            sys.exit(f"{', '.join(map(str, stale))}: differs from benchmarks/results; run `make bench-docs`")
        return
    for path, content in wanted_pages().items():
        path.write_text(content, encoding="utf-8")
    for plot in plots(RESULTS):
        (DOCS / PLOTS).mkdir(exist_ok=True)
        shutil.copyfile(plot, DOCS / PLOTS / plot.name)
    for path in stale:
        sys.stdout.write(f"==> {path}\n")


def wanted_pages() -> dict[Path, str]:
    """Returns the text of each page, from the results."""
    capacity, responsible = DOCS / "capacity.md", DOCS / "responsible.md"
    return {
        DOCS / "benchmarks.md": benchmarks_page(RESULTS),
        capacity: capacity_page(capacity.read_text(encoding="utf-8"), RESULTS),
        responsible: responsible_page(responsible.read_text(encoding="utf-8"), RESULTS),
    }


def stale_pages() -> list[Path]:
    """Returns the files of the documentation that differ from the results."""
    pages = [
        path for path, text in wanted_pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    copies = [(plot, DOCS / PLOTS / plot.name) for plot in plots(RESULTS)]
    pages += [copy for plot, copy in copies if not copy.is_file() or copy.read_bytes() != plot.read_bytes()]
    return [path.relative_to(ROOT) for path in pages]


if __name__ == "__main__":
    main()
