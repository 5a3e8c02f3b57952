"""Errors that keep a comparison from being made; a difference that was found is a result, not an error.

VerifyError
├── RecordedRequestError       a line of a file of recorded requests cannot be read
├── NoStatesError              the server keeps no states of users
├── NoneByUserError            no request can be compared by user
├── ServerMismatchError        the server cannot be reached, or does not serve the version that is to be compared
└── UnlikeCatalogError         the bundle's catalog is not that of the repository
"""

from __future__ import annotations


class VerifyError(Exception):
    """Root of what keeps a comparison from being made."""


class RecordedRequestError(VerifyError):
    """A line of a file of recorded requests cannot be read."""


class NoStatesError(VerifyError):
    """The server keeps no states of users, so that answers by user cannot be compared."""


class NoneByUserError(VerifyError):
    """No request can be compared by user: each has texts, or is one that the export refuses."""


class ServerMismatchError(VerifyError):
    """The server cannot be reached, or does not serve the version that is to be compared."""


class UnlikeCatalogError(VerifyError):
    """The bundle's catalog is not that of the repository."""
