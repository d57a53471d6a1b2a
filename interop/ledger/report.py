"""What the ledger reports: two accesses of one array that nothing orders, or nothing that could be seen."""

import contextlib
import inspect
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

from interop import _cuda
from interop.errors import InteropError, RaceError
from interop.ledger.memory import Kind
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.ledger.history import Line

_OURS: Final = 3
"""References to a frame's variables: the frame's, ours, and that of the question."""
_VERBS: Final = {Kind.READ: "reads", Kind.MAYBE: "reads and may write", Kind.WRITE: "writes"}


@dataclass(frozen=True, slots=True)
class Party:
    """One access.

    Attributes:
        by: what does it, such as ``numba kernel 'fill'``.
        stream: which stream's work it is, in words.
        kind: what it does to the array.
        array: which array, in words.
        where: ``file:line`` of the user's code that submitted it.
    """

    by: str
    stream: str
    kind: Kind
    array: str
    where: str

    def __str__(self) -> str:
        """Who, and where, in one line."""
        return f"{self.by} on {self.stream} ({self.where})"

    @property
    def verb(self) -> str:
        """What it does, as a word."""
        return _VERBS[self.kind]


@dataclass(frozen=True, slots=True)
class Finding:
    """Two accesses of the same memory, at least one of which writes, or may, that nothing orders.

    Attributes:
        earlier: the one that was submitted first.
        later: the one that was submitted second.
        fix: the line that would order the two, to be put before the later one; in words where no line can.
        doubt: why this need not be a race; empty if it is one.
    """

    earlier: Party
    later: Party
    fix: str
    doubt: str = ""

    def __str__(self) -> str:
        """The report, in four lines, and a fifth for the doubt."""
        earlier, later = self.earlier, self.later
        other = "" if earlier.array == later.array else f", as {earlier.array}"
        what, seen = ("unknown", " that was seen") if self.doubt else ("race", "")
        lines = [
            f"{what} on {later.array}: nothing{seen} orders",
            f"  {earlier}, which {earlier.verb} it{other}, before",
            f"  {later}, which {later.verb} it.",
            f"  Order them: {self.fix}",
        ]
        return "\n".join([*lines, f"  Not sure: {self.doubt}"] if self.doubt else lines)

    def error(self, others: Sequence["Finding"] = ()) -> RaceError:
        """The error that reports this race, and *others* with it."""
        return RaceError("\n".join(str(finding) for finding in (self, *others)))


class Fixes:
    """The lines that would order streams: with the variables of *frame*, or the streams' addresses."""

    def __init__(self, frame: FrameType | None) -> None:
        """Look for no variable yet."""
        self._frame = frame
        self._names: dict[tuple[object, ...], str] | None = None

    def line(self, consumer: "Line", producer: "Line") -> str:
        """The line that lets *consumer* wait for *producer*."""
        waiting = f"interop.as_stream({self._name(consumer) or consumer.expression})"
        if producer.expression.startswith(f"{_cuda.PER_THREAD},"):  # nobody else can name it
            return f"{waiting}.wait_event(event), for an event that was recorded on {producer.label}, in that thread"
        return f"{waiting}.wait_stream({self._name(producer) or f'interop.as_stream({producer.expression})'})"

    def _name(self, line: "Line") -> str | None:
        if self._names is None:
            self._names = {} if self._frame is None else streams_in(self._frame)
        return self._names.get(line.native)


def streams_in(frame: FrameType) -> dict[tuple[object, ...], str]:
    """The first variable of *frame* that holds a stream, for each stream by its :func:`native_of`."""
    found: dict[tuple[object, ...], str] = {}
    variables = frame.f_locals
    # Of copies: another thread may make a global variable meanwhile.
    for name, value in itertools.chain(list(variables.items()), list(frame.f_globals.items())):
        # Others than streams are not asked whether they are one: their properties may do anything.
        if any("Stream" in cls.__name__ for cls in type(value).__mro__):
            with contextlib.suppress(InteropError):
                found.setdefault(native_of(as_stream(value)), name)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        # Before 3.13 these are copies, which would keep what the function deletes alive until it returns. If more than
        # the frame and this function have them, somebody has called locals(), and they are that one's.
        if sys.getrefcount(variables) <= _OURS:
            variables.clear()
    return found


def native_of(stream: ExternalStream) -> tuple[object, ...]:
    """What tells a stream from all others that there are, without keeping it alive."""
    return (stream._cuda, stream._handle, stream._needs, stream._thread)
