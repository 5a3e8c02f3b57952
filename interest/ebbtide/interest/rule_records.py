"""The rules of the house in the store, the same for every version of the model: one record, and one with its number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ebbtide.interest.users import Users
from ebbtide.store import Changes, Snapshot, shared_key

FINGERPRINT = b"rules"
"""What the records are kept under."""
NUMBER_KEY = shared_key("ruln")
RULES_KEY = shared_key("rule")


class RuleStore:
    """Reads and writes the rules, each a JSON object with its ``name``."""

    def __init__(self, users: Users) -> None:
        """Takes the store.

        Args:
            users: Of any export that uses it.
        """
        self._users = users

    def number(self) -> bytes | None:
        """Another one after each change; None before the first.

        Raises:
            StoreError: The store failed.
        """
        [number] = self._users.store().read([NUMBER_KEY], FINGERPRINT)
        return number

    def document(self) -> bytes:
        """All rules, as a JSON list.

        Raises:
            StoreError: The store failed.
        """
        [found] = self._users.store().read([RULES_KEY], FINGERPRINT)
        return found or b"[]"

    def write(self, before: bytes, rules: Sequence[dict[str, Any]]) -> bool:
        """Replaces all rules, unless somebody else has changed them.

        Args:
            before: The document that they were made from.
            rules: All of them.

        Returns:
            Whether they are written.

        Raises:
            StoreError: The store failed; the rules may be written.
        """
        after = json.dumps(list(rules), ensure_ascii=False).encode()
        written = False

        def change(snapshot: Snapshot) -> list[Changes]:
            nonlocal written
            written = snapshot.records[0].get(FINGERPRINT, b"[]") == before
            return [{FINGERPRINT: after} if written else {}]

        def raised(snapshot: Snapshot) -> list[Changes]:
            number = int.from_bytes(snapshot.records[0].get(FINGERPRINT, b""), "little")
            return [{FINGERPRINT: (number + 1).to_bytes(8, "little")}]

        self._users.store().update([RULES_KEY], change)
        # In a second update: a reader that sees the new number must see the new rules.
        if written:
            self._users.store().update([NUMBER_KEY], raised)
        return written
