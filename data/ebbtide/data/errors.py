"""Errors of the data stage; each message says what was found, what was expected, and what to do."""


class DataError(Exception):
    """A data file that cannot be used."""
