"""Errors of the checker itself; what it finds in a repository is a `Finding`, never an error.

CheckError
├── NotARepositoryError    the folder given is no model repository
└── UnknownRuleError       a rule that does not exist was to be ignored
"""

from __future__ import annotations


class CheckError(Exception):
    """Root of what the checker raises."""


class NotARepositoryError(CheckError):
    """The path given is no model repository: there is nothing to check."""


class UnknownRuleError(CheckError):
    """A rule was named that does not exist."""
