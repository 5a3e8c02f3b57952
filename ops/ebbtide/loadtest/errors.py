"""What can go wrong in a load test, apart from the requests themselves: those are counted, not raised."""

from __future__ import annotations


class LoadTestError(Exception):
    """A load test cannot be run, or its files cannot be read; the message says which part and what to do."""

    @classmethod
    def of_field(cls, field: str, value: object, expected: str) -> LoadTestError:
        """The error of a setting that is not what was expected."""
        return cls(f"{field}: got {value!r}; expected {expected}")
