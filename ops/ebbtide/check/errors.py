"""Errors of the checker itself. A problem in a repository is a `Finding`, not an error.

CheckError
├── NotARepositoryError    the given path is not a model repository
└── UnknownRuleError       the list of rules to ignore has an unknown id
"""

from __future__ import annotations


class CheckError(Exception):
    """Base class of the checker's errors."""


class NotARepositoryError(CheckError):
    """The given path is not a model repository, so there is nothing to check."""


class UnknownRuleError(CheckError):
    """The given rule does not exist."""
