"""The accesses of one buffer, and which of them a new access conflicts with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from interop._order.clock import Clock, Epoch

Who = TypeVar("Who")

_ROOM: Final = 64
"""So many accesses are kept before equal ones of ended lines are merged."""


@dataclass(frozen=True, slots=True)
class Access(Generic[Who]):
    """One read or write of a buffer.

    Attributes:
        who: whatever the caller wants to know about the access later.
        epoch: the work that makes the access.
        writes: whether it writes. An access that reads and writes is a write.
        by_host: whether a host thread makes the access. Two accesses by the host never conflict: CUDA does not order
            host threads.
    """

    who: Who
    epoch: Epoch
    writes: bool
    by_host: bool = False

    def covers(self, old: "Access[Who]") -> bool:
        """Whether everything that conflicts with *old* conflicts with this access too."""
        return (self.writes or not old.writes) and (old.by_host or not self.by_host)


class Accesses(Generic[Who]):
    """The accesses of one buffer that later ones can still conflict with.

    As long as everything is ordered, these are the last write and the reads since. Otherwise they are all accesses that
    no later one comes after, so that one race does not hide another.
    """

    def __init__(self) -> None:
        """Start with an untouched buffer."""
        self._live: list[Access[Who]] = []
        self._room = _ROOM

    def conflicts(self, known: Clock, *, writes: bool, by_host: bool = False) -> list[Access[Who]]:
        """The earlier accesses that a new one conflicts with and is not ordered after, oldest first.

        Args:
            known: what the new access comes after.
            writes: whether the new access writes. Two reads never conflict.
            by_host: whether a host thread makes the new access.
        """
        return _unknown(known, (old for old in self._live if (writes or old.writes) and not (by_host and old.by_host)))

    def add(self, access: Access[Who], known: Clock) -> None:
        """Add an access that comes after what *known* knows."""
        # A dropped access comes before the new one, and the new one covers it. So later work that is ordered after the
        # new access is ordered after the dropped one too, and later work that is not conflicts with the new one.
        unknown = _unknown(known, self._live)
        if len(unknown) == len(self._live):
            live = unknown
        else:
            kept = set(map(id, unknown))
            live = [old for old in self._live if id(old) in kept or not access.covers(old)]
        live.append(access)
        if len(live) >= self._room:
            latest = {(old.epoch.line.group, old.writes, old.by_host): old for old in live}
            live = list(latest.values())
            self._room = _ROOM + len(live)
        self._live = live


def _unknown(known: Clock, accesses: Iterable[Access[Who]]) -> list[Access[Who]]:
    """Those of *accesses* whose work *known* does not know."""
    last = known._seen.get
    return [
        access
        for access in accesses
        # The first condition decides for a line without a group, as most are. It is `knows`, without the call.
        if access.epoch.number > last(access.epoch.line.number, 0)
        and (access.epoch.line._group is None or not known.knows(access.epoch))
    ]
