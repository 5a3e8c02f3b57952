"""Errors of the export stage; each message says what was seen, what was expected, and what to do.

ExportError
├── OutputFolderError          the output folder holds what an export did not write
├── KeyCollisionError          two item ids share a key
├── LimitError                 a limit or size that cannot be served
├── ServingOptionsError        a target or another choice of how to serve that cannot be met
├── EncoderOptionsError        choices for the encoder that do not go together, or that this encoder does not have
├── FidelityError              a compressed encoder answers too far from the full one
├── RepositoryError            a folder is not an export, or its files come from different exports
├── VersionError               a version that is not there, is in use, or does not go with the others
└── ParityError                an exported graph does not answer as the torch model does
├── TensorNamesError       inputs or outputs have other names
├── DynamicAxesError       an axis is fixed that must vary, or the other way round
├── OutputShapeError       an output has another shape
└── OutputValueError       values differ by more than the tolerance
"""

from __future__ import annotations


class ExportError(Exception):
    """Root of what this stage raises."""


class OutputFolderError(ExportError):
    """The output folder holds what an export did not write, and so is not overwritten."""


class KeyCollisionError(ExportError):
    """Two item ids share a key: requests could not tell them apart."""


class LimitError(ExportError):
    """A limit or size that cannot be served."""


class ServingOptionsError(ExportError):
    """A target, or another choice of how an export is served, that cannot be met."""


class EncoderOptionsError(ExportError):
    """Choices for the encoder that do not go together, or that this encoder does not have."""


class FidelityError(ExportError):
    """A compressed encoder answers further from the full one than is allowed."""


class RepositoryError(ExportError):
    """A folder that is not an export, or whose files come from different exports."""


class VersionError(ExportError):
    """A version that is not there, is in use, or does not go with those beside it."""


class AttributesError(ExportError):
    """Attributes of items that cannot be read, or are too many."""


class RetrievalError(ExportError):
    """An approximate index that cannot be built, or misses more of the best items than is allowed."""


class ParityError(ExportError):
    """What was exported does not answer as the torch model does."""


class TensorNamesError(ParityError):
    """A graph's inputs or outputs have other names than the contract's."""


class DynamicAxesError(ParityError):
    """A graph's axis is fixed where requests differ, or varies where the contract fixes it."""


class OutputShapeError(ParityError):
    """An output has another shape than the torch model's."""


class OutputValueError(ParityError):
    """Values differ from the torch model's by more than the tolerance."""

    def __init__(self, subject: str, difference: float, tolerance: float) -> None:
        super().__init__(
            f"{subject}: got a largest absolute difference of {difference:.3g}; expected at most {tolerance:.3g}"
        )
        self.difference = difference
        """The largest absolute difference seen."""
        self.tolerance = tolerance
        """The largest one allowed."""
