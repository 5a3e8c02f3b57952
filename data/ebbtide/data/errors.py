"""Errors of the data stage; each message says what was found, what was expected, and what to do."""


class DataError(Exception):
    """A data file that cannot be used."""


class MissingColumnError(DataError):
    """A table without a column that is read."""

    def __init__(self, message: str, column: str) -> None:
        """The message, and the name of the column."""
        super().__init__(message)
        self.column = column
