"""How many items of a group a list may have and must have: caps, and minimums with a plan that keeps them in reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FREE = -1
"""The cause of a candidate that no cap blocks."""


class Counts:
    """Caps and minimums of one list, as items are chosen.

    While a minimum is not met there is a plan: candidates that meet all minimums within the caps. A candidate is
    refused if no plan is left after it. Minimums that no plan meets are lowered at the start, the last ones first.
    """

    def __init__(
        self, caps: tuple[Bools, Ints, Ints], minimums: tuple[Bools, Ints, Ints], chosen: Sequence[int], places: int
    ) -> None:
        """Takes the limits.

        Args:
            caps: Which candidates each group has ``[candidates, groups]``, how many may be chosen ``[groups]``, and
                the number of the cause ``[groups]``.
            minimums: The same, with how many have to be chosen.
            chosen: Candidates that are in the list anyway; they count.
            places: Items that are still to be chosen.
        """
        self._capped, self.room, self._cap_cause = caps[0], caps[1].copy(), caps[2]
        self._wanted, self.need, self._need_cause = minimums[0], minimums[1].copy(), minimums[2]
        self._open = np.ones(self._capped.shape[0], dtype=np.bool_)
        self.blocked_by: Ints = np.full(self._open.size, FREE, dtype=np.int64)
        """``[candidates]``: the cause of the cap that blocks a candidate, or `FREE`."""
        self._is_wanted = self._wanted.any(axis=1)
        self.has_blocked = False
        """Whether a cap blocks any candidate."""
        self._plan: list[int] = []
        self._planned_in: Ints = np.zeros(self.room.size, dtype=np.int64)
        """``[groups]``: candidates of the plan."""
        self._tight: Bools = np.zeros(self.room.size, dtype=np.bool_)
        """``[groups]``: whose caps the plan fills."""
        for group in np.flatnonzero(self.room <= 0).tolist():
            self._block(group)
        for index in chosen:
            self._take(index)
        self._lower_needs(places)

    @property
    def is_pending(self) -> bool:
        """Whether a minimum is not met yet."""
        return bool(self._plan)

    @property
    def pending_cause(self) -> int:
        """The cause of the first minimum that is not met."""
        return int(self._need_cause[np.argmax(self.need > 0)])

    @property
    def wanted_now(self) -> Bools:
        """The candidates that a minimum still needs, ``[candidates]``."""
        return np.asarray(self._wanted[:, self.need > 0].any(axis=1))

    def passed_by(self) -> Ints:
        """How many full caps each candidate would pass, ``[candidates]``."""
        return np.asarray(self._capped[:, self.room <= 0].sum(axis=1))

    def is_tight(self, places: int) -> bool:
        """Whether only candidates that a minimum needs keep the minimums within reach.

        Args:
            places: Items that are still to be chosen.
        """
        return len(self._plan) >= places

    def accepts(self, index: int, places: int) -> bool:
        """Whether the minimums stay within reach after a candidate; the plan then fits to it.

        Args:
            index: Of a candidate that no cap blocks.
            places: Items that are still to be chosen, this one too.
        """
        if index in self._plan:
            return True
        if len(self._plan) < places and not self._crowds_out(index):
            return True
        plan, left = self._planned(self.need - self._wanted[index], index)
        if left.any() or len(plan) >= places:
            return False
        self._set_plan(plan)
        return True

    def choose(self, index: int, places: int) -> None:
        """Notes that a candidate is chosen.

        Args:
            index: Of the candidate.
            places: Items that are still to be chosen after it.
        """
        if not self._plan:
            self._take(index)
            return
        if index in self._plan:
            self._take(index)
            self._set_plan([one for one in self._plan if one != index])
            return
        has_filled = self._take(index)
        blocks_plan = has_filled and (self.blocked_by[self._plan] != FREE).any()
        if self._is_wanted[index] or len(self._plan) > places or blocks_plan:
            self._lower_needs(places)
        else:
            self._tight = self._planned_in >= self.room

    def _take(self, index: int) -> bool:
        """Counts a candidate; returns whether it fills a cap."""
        self._open[index] = False
        if self._is_wanted[index]:
            self.need = np.maximum(self.need - self._wanted[index], 0)
        has_filled = False
        for group in np.flatnonzero(self._capped[index]).tolist():
            self.room[group] -= 1
            if self.room[group] == 0:
                self._block(group)
                has_filled = True
        return has_filled

    def _block(self, group: int) -> None:
        newly = self._capped[:, group] & (self.blocked_by == FREE)
        self.blocked_by[newly] = self._cap_cause[group]
        self.has_blocked = True

    def _crowds_out(self, index: int) -> bool:
        """Whether caps have no room for a candidate beside the plan."""
        return bool((self._capped[index] & self._tight).any())

    def _set_plan(self, plan: list[int]) -> None:
        self._plan = plan
        if plan:
            self._planned_in = self._capped[plan].sum(axis=0)
            self._tight = self._planned_in >= self.room

    def _lower_needs(self, places: int) -> None:
        """Lowers the minimums that no plan meets, and makes the plan of the others."""
        plan, left = self._planned(self.need, None)
        self.need = self.need - left
        while len(plan) > places:
            last = int(np.flatnonzero(self.need > 0)[-1])
            self.need[last] -= 1
            plan, _ = self._planned(self.need, None)
        self._set_plan(plan)

    def _planned(self, need: Ints, taken: int | None) -> tuple[list[int], Ints]:
        """Candidates that meet needs, those first that meet most of them; and what they cannot meet.

        Args:
            need: ``[minimums]``.
            taken: A candidate to think of as chosen.
        """
        plan: list[int] = []
        left = np.zeros_like(need)
        need = np.maximum(need, 0)
        if not need.any():
            return plan, left
        room = self.room.copy()
        is_open = self._open & (self.blocked_by == FREE)
        if taken is not None:
            is_open[taken] = False
            room -= self._capped[taken]
            is_open &= ~self._capped[:, room <= 0].any(axis=1)
        while need.any():
            meets = np.where(is_open, self._wanted[:, need > 0].sum(axis=1), 0)
            best = int(np.argmax(meets))
            if not meets[best]:
                left += need
                break
            plan.append(best)
            is_open[best] = False
            need = np.maximum(need - self._wanted[best], 0)
            groups = self._capped[best]
            if groups.any():
                room -= groups
                is_open &= ~self._capped[:, groups & (room <= 0)].any(axis=1)
        return plan, left
