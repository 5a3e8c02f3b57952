"""Deployment of a version on a running Triton: load it beside the one that answers, check it, switch, roll back."""

from ebbtide.deploy.answers import Comparison
from ebbtide.deploy.control import ModelControl, Served
from ebbtide.deploy.errors import (
    CandidateError,
    DeployError,
    LoadRefusedError,
    ModelControlError,
    OtherRepositoryError,
    StatesMissingError,
)
from ebbtide.deploy.states import StatesFound
from ebbtide.deploy.switch import Deployment, deploy, roll_back

__all__ = [
    "CandidateError",
    "Comparison",
    "DeployError",
    "Deployment",
    "LoadRefusedError",
    "ModelControl",
    "ModelControlError",
    "OtherRepositoryError",
    "Served",
    "StatesFound",
    "StatesMissingError",
    "deploy",
    "roll_back",
]
