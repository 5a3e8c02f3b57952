"""Errors of a deployment; each message says what was seen, what was expected, and what to do.

DeployError
├── ModelControlError          the server does not let models be loaded, or cannot be reached
├── OtherRepositoryError       the server serves another repository than the one given
├── LoadRefusedError           the server refused a model of the new version; the old one goes on answering
├── StatesMissingError         the store does not know the users for the new version; nothing was changed
└── CandidateError             the new version answers otherwise than it should; the old one goes on answering
"""

from __future__ import annotations


class DeployError(Exception):
    """Root of what a deployment raises."""


class ModelControlError(DeployError):
    """The server does not let models be loaded and unloaded, or cannot be reached."""


class OtherRepositoryError(DeployError):
    """The server serves another repository than the one given."""


class LoadRefusedError(DeployError):
    """The server refused a model of the new version; the old one goes on answering."""


class StatesMissingError(DeployError):
    """The store does not know the users for the new version; nothing was changed."""


class CandidateError(DeployError):
    """The new version answers otherwise than it should; the old one goes on answering."""
