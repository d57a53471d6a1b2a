"""The report of two accesses of one array that nothing orders."""

from collections.abc import Sequence
from dataclasses import dataclass

from interop._order.accesses import Access
from interop._order.clock import Epoch
from interop.errors import RaceError


@dataclass(frozen=True, slots=True)
class Party:
    """A kernel or a host thread that accesses an array.

    Attributes:
        name: the kernel's name, or "host".
        stream: the name of its stream, or of the host thread.
        where: ``file:line`` of the launch, or of the host's access.
        on_host: whether it is the host.
    """

    name: str
    stream: str
    where: str
    on_host: bool

    def access(self, epoch: Epoch, *, writes: bool) -> "Access[Party]":
        """Its access of one array."""
        return Access(self, epoch, writes, self.on_host)

    def __str__(self) -> str:
        """Who, and where, in one line."""
        if self.on_host:
            return f"the host in thread {self.stream} ({self.where})"
        return f"kernel {self.name!r} on {self.stream} ({self.where})"


@dataclass(frozen=True, slots=True)
class Race:
    """Two accesses of one array, at least one of them a write, that nothing orders. The schedule does not matter.

    Attributes:
        earlier: the access that was enqueued first.
        later: the access that was enqueued second, and should have been ordered after the first.
        array: the array's name.
        earlier_writes: whether the earlier one writes.
        later_writes: whether the later one writes.
    """

    earlier: Party
    later: Party
    array: str
    earlier_writes: bool
    later_writes: bool

    @property
    def fix(self) -> str:
        """The line that orders the two, if it stands before the later access."""
        earlier, later = self.earlier.stream, self.later.stream
        if self.earlier.on_host:
            hear = _line("gpu.hear({thread})", thread=earlier)
            return f"{hear}, once that thread has told this one that it is done"
        if self.later.on_host:
            return _line("interop.as_stream({producer}).synchronize()", producer=earlier)
        return _line("interop.as_stream({consumer}).wait_stream({producer})", consumer=later, producer=earlier)

    def __str__(self) -> str:
        """The report, in four lines."""
        earlier, later = ("writes" if it else "reads" for it in (self.earlier_writes, self.later_writes))
        return (
            f"race on {self.array}: nothing orders\n"
            f"  {self.earlier}, which {earlier} it, before\n"
            f"  {self.later}, which {later} it.\n"
            f"  Order them: {self.fix}"
        )

    def error(self, others: Sequence["Race"] = ()) -> RaceError:
        """The error that reports this race, and *others* with it."""
        return RaceError("\n".join(str(race) for race in (self, *others)))


def _line(code: str, **names: str) -> str:
    """*code* with the names filled in, if all can be variables; else with a placeholder for each, and its meaning."""
    if all(map(str.isidentifier, names.values())):
        return code.format(**names)
    meant = " and ".join(f"{word} is {name}" for word, name in names.items())
    return f"{code.format(**{word: word for word in names})}, where {meant}"
