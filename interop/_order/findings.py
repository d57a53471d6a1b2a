"""What the simulator and the ledger report: two accesses of one array that nothing orders, or in a wrong order."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from interop._show.text import as_printed
from interop.errors import RaceError


class Kind(enum.IntEnum):
    """What an access does. Work that is ordered after one access need not be compared with earlier, lower kinds."""

    READ = 1
    MAYBE = 2
    """It reads, and may write: nothing says which."""
    WRITE = 3
    FREE = 4
    """The memory is given back, in the order of a stream."""
    ALLOCATE = 5
    """The memory is taken, in the order of a stream."""
    DESTROY = 6
    """The stream of the work is destroyed."""

    @property
    def verb(self) -> str:
        """What the access does, in words."""
        return _VERBS[self]


_VERBS: Final = {
    Kind.READ: "reads",
    Kind.MAYBE: "reads and may write",
    Kind.WRITE: "writes",
    Kind.FREE: "frees",
    Kind.ALLOCATE: "allocates",
    Kind.DESTROY: "destroys",
}


@dataclass(frozen=True, slots=True)
class Party:
    """One access.

    Attributes:
        by: the work that makes the access, such as ``Numba kernel 'fill'``; or ``the host``.
        stream: the stream of that work, in words; or the name of the host thread.
        kind: what the access does to the array.
        array: the array, in words.
        where: ``file:line`` of the user's code that submitted the work, or made the access; in a notebook such as
            ``In [5], line 4``.
        doubt: why it is not certain that the work makes this access, or when; empty if it is.
        memory: a number of the memory that was allocated for the array; 0 if that is not known.
    """

    by: str
    stream: str
    kind: Kind
    array: str
    where: str
    doubt: str = ""
    memory: int = 0

    def __str__(self) -> str:
        return f"{self.by} on {self.stream} ({self.where})"


@dataclass(frozen=True, slots=True)
class Finding:
    """Two accesses of the same memory that nothing orders, and at least one of them writes, or may write.

    Attributes:
        earlier: the access that was submitted first.
        later: the access that was submitted second, and should have been ordered after the first.
        fix: the line of code that orders the two, to be put before the later one; in words where no line can.
        uncertainty: why this may not be a race; empty if it is one.
    """

    earlier: Party
    later: Party
    fix: str
    uncertainty: str = ""

    _repr_pretty_ = as_printed

    @property
    def what(self) -> str:
        """What is wrong: a race, or a use of memory or of a stream that is gone, or not there yet."""
        kinds = {self.earlier.kind, self.later.kind}
        if Kind.DESTROY in kinds:
            return "work on a destroyed stream"
        if Kind.FREE in kinds:
            return "use after free"
        if Kind.ALLOCATE in kinds:
            return "use before allocation"
        is_reused = 0 != self.earlier.memory != self.later.memory != 0
        return "reuse of freed memory" if is_reused else "race"

    @property
    def is_in_order(self) -> bool:
        """Whether no wait is missing: the later access comes after the earlier one, and must not."""
        return self.earlier.kind in (Kind.FREE, Kind.DESTROY)

    def __str__(self) -> str:
        earlier, later, what = self.earlier, self.later, self.what
        other = "" if earlier.array == later.array else f", as {earlier.array}"
        seen = " that was seen" if self.uncertainty else ""
        if self.uncertainty:
            what = "unknown" if what == "race" else f"unknown, perhaps {what},"
        if self.is_in_order:
            lines = [
                f"{what.rstrip(',')}: {later.array}",
                f"  {earlier}, which {earlier.kind.verb} it{other}, comes before",
                f"  {later}.",
                f"  Mend it: {self.fix}",
            ]
        else:
            lines = [
                f"{what} on {later.array}: nothing{seen} orders",
                f"  {earlier}, which {earlier.kind.verb} it{other}, before",
                f"  {later}, which {later.kind.verb} it.",
                f"  Order them: {self.fix}",
            ]
        return "\n".join([*lines, f"  Not certain: {self.uncertainty}"] if self.uncertainty else lines)

    def error(self, others: Sequence["Finding"] = ()) -> RaceError:
        """The error that reports this race and *others*."""
        return RaceError("\n".join(str(finding) for finding in (self, *others)))
