"""Whether the store knows the users for a version that is to come into service."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from ebbtide.deploy.errors import StatesMissingError
from ebbtide.store import StateStore

_SAMPLED_USERS = 1000
_LEAST_SHARE = 0.5
"""Most users have a record of a version whose states were built from a log; before, only those who did something since
the version was registered."""


@dataclass(frozen=True)
class StatesFound:
    """How many users of the version in service the new version knows, in a sample."""

    users: int
    """In the sample: keys are hashes, so that the first ones that the store gives are a random sample."""
    known: int
    shared: bool
    """Whether both versions have the same states, as after `ebbtide refresh`: nothing need be built."""


def find_states(store: StateStore, current: str, target: str) -> StatesFound:
    """Looks for states of the users whom the version in service knows.

    Args:
        store: Of both versions.
        current: Fingerprint of the states of the version in service.
        target: Fingerprint of the states of the version to come.

    Raises:
        StoreError: The store failed.
    """
    users = list(islice(store.users(current.encode()), _SAMPLED_USERS))
    records = store.read(users, target.encode()) if users else []
    return StatesFound(len(users), sum(record is not None for record in records), current == target)


def require_states(found: StatesFound, version: int, store: StateStore) -> None:
    """Accepts a version that knows the users, or a store without any.

    Raises:
        StatesMissingError: With the command that builds the states.
    """
    if found.known < _LEAST_SHARE * found.users:
        raise StatesMissingError(
            f"version {version}: got states of {found.known:,} of {found.users:,} users whom the version in service "
            f"knows; expected those of most: build them first with `ebbtide backfill REPOSITORY --version {version} "
            f"--state {store.name} --events LOG`. --without-states deploys it all the same: it then goes by the newest "
            "events of each user"
        )
