"""What can go wrong in planning."""

from __future__ import annotations


class CapacityError(Exception):
    """Numbers from which nothing can be planned; the message names the field, what it was and what was expected."""

    @classmethod
    def of_field(cls, field: str, value: object, expected: str) -> CapacityError:
        """The error of a number that is not what was expected."""
        return cls(f"{field}: got {value!r}; expected {expected}")
