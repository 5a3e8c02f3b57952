"""What this stage raises; each message says what was seen, what was expected, and what to do."""


class DataError(Exception):
    """A data file that cannot be used."""
