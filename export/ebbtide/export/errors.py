"""Errors of the export stage; each message says what was seen, what was expected, and what to do.

ExportError
├── OutputFolderError          the output folder holds files that no export wrote
├── KeyCollisionError          two item ids share a key
├── LimitError                 a limit or size is out of range
├── ServingOptionsError        a machine or another serving option is not possible
├── EncoderOptionsError        encoder options conflict, or the encoder does not support them
├── FidelityError              a compressed encoder differs too much from the full one
├── RepositoryError            a folder is not an export, or its files come from different exports
├── VersionError               a version is missing, is in use, or does not fit the other versions
├── AttributesError            item attributes cannot be read, or there are too many values
├── RetrievalError             an approximate index cannot be built, or its recall is too low
└── ParityError                an exported graph gives other results than the torch model
    ├── TensorNamesError       inputs or outputs have other names
    ├── DynamicAxesError       an axis is fixed that must vary, or varies but must be fixed
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
    """A limit or size is out of range."""


class ServingOptionsError(ExportError):
    """A machine or another serving option is not possible."""


class EncoderOptionsError(ExportError):
    """Encoder options conflict, or the encoder does not support them."""


class FidelityError(ExportError):
    """A compressed encoder differs more from the full one than is allowed."""


class RepositoryError(ExportError):
    """A folder is not an export, or its files come from different exports."""


class VersionError(ExportError):
    """A version is missing, is in use, or does not fit the other versions."""


class AttributesError(ExportError):
    """Item attributes cannot be read, or there are too many values."""


class RetrievalError(ExportError):
    """An approximate index cannot be built, or its recall is too low."""


class ParityError(ExportError):
    """The exported models give other results than the torch model."""


class TensorNamesError(ParityError):
    """A graph's inputs or outputs have other names than in the contract."""


class DynamicAxesError(ParityError):
    """A graph's axis is fixed but must vary, or varies but must be fixed."""


class OutputShapeError(ParityError):
    """An output has another shape than in the torch model."""


class OutputValueError(ParityError):
    """Values differ from the torch model's by more than the tolerance."""

    def __init__(self, subject: str, difference: float, tolerance: float) -> None:
        super().__init__(
            f"{subject}: got a largest absolute difference of {difference:.3g}; expected at most {tolerance:.3g}"
        )
        self.difference = difference
        """The largest absolute difference measured."""
        self.tolerance = tolerance
        """The largest absolute difference allowed."""
