"""Errors of the train stage; each message says what was seen, what was expected, and what to do."""


class TrainError(Exception):
    """Root of what this stage raises."""


class EncoderError(TrainError):
    """A pre-trained encoder that cannot be found or used."""


class BundleError(TrainError):
    """A folder that is not a sound interest bundle."""


class CheckpointError(TrainError):
    """A checkpoint that cannot be gone on from."""


class DeviceError(TrainError):
    """Devices that are not there."""


class RequestError(TrainError, ValueError):
    """A request to the reference of the formulas that no server would answer."""
