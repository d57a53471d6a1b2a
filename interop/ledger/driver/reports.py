"""What reports call the lines, the streams and the arrays of recorded calls, and the line of code that is missing."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Final

from interop._order.clocks import StreamKind
from interop._show.callsite import where_of
from interop.ledger.driver.calls import Call
from interop.ledger.streams import KnownStream

LEGACY: Final = 1
PER_THREAD: Final = 2
_PLACES_KEPT: Final = 100_000
_KERNELS: Final = {"cupy_": "cupy", "_ZN2at": "torch", "_ZN3c10": "torch", "_ZN6cudapy": "numba", "triton_": "torch"}
"""How the names of libraries' kernels begin."""
_DEFAULT: Final = {
    "cupy": "cupy.cuda.Stream.null",
    "numba": "numba.cuda.default_stream()",
    "torch": "torch.cuda.default_stream()",
}
_WAITS: Final = {
    "cupy": "{consumer}.wait_event({producer}.record())",
    "torch": "{consumer}.wait_stream({producer})",
}
"""The line by which a library's own stream waits for another one of the library."""

Place = tuple[tuple[CodeType, int], ...]


@dataclass(eq=False, slots=True)
class Stream(KnownStream):
    """A stream that recorded calls name.

    Attributes:
        variable: what the program calls it; empty if that is not certain.
        libraries: the libraries whose kernels it has run; an empty string stands for others.
    """

    variable: str = ""
    libraries: set[str] = field(default_factory=set)


class Names:
    """What a program calls what it uses: from the lines of code that made it."""

    def __init__(self, name_of: Callable[[int], str]) -> None:
        """*name_of* gives the name of the stream at an address; empty if it has none."""
        self._name_of = name_of
        self._places: dict[int, tuple[Place, int, tuple[str, str]]] = {}
        self._numbers = itertools.count()
        self._made: dict[int, tuple[str, str]] = {}
        self._lines: dict[str, int] = {}
        self._taken: dict[str, int] = {}

    def where(self, place: Place) -> tuple[str, str]:
        """The user's line of a call, and the variable that the line sets."""
        return self._found(place)[2]

    def line(self, place: Place) -> int:
        """A number for where a call was made. No other place has it."""
        return self._found(place)[1]

    def _found(self, place: Place) -> tuple[Place, int, tuple[str, str]]:
        found = self._places.get(id(place))
        if found is None:
            if len(self._places) > _PLACES_KEPT:
                self._places.clear()
            found = self._places[id(place)] = (place, next(self._numbers), where_of(place))
        return found

    def memory(self, call: Call) -> str:
        """What a report calls the memory that a call has allocated; empty if its line is not known."""
        pinned = "pinned " if call.kind == "host alloc" else ""
        return self._of_line(call, f"the {pinned}memory that {{}} allocates")

    def used(self, call: Call, start: int) -> str:
        """What a report calls the memory from *start* on, whose allocation was not seen, by the call that uses it."""
        return self._of_line(call, "the memory that {} uses first") or f"the memory at {start:#x}"

    def _of_line(self, call: Call, text: str) -> str:
        where, variable = self.where(call.place)
        return "" if where == "unknown" else text.format(where) + (f" for {variable}" if variable else "")

    def stream_made(self, call: Call) -> None:
        """A stream was made. Its line tells it from others if the line makes one only."""
        where, variable = self.where(call.place)
        self._made[call.a] = (where, variable)
        self._lines[where] = self._lines.get(where, 0) + 1

    def label(self, handle: int) -> str:
        """What a report calls the stream at an address."""
        label = self._name_of(handle) or self._variable(handle) or f"stream {handle:#x}"
        return label if self._taken.setdefault(label, handle) == handle else f"{label} {handle:#x}"

    def stream(self, call: Call, context: int) -> Stream:
        """The stream of a call, which belongs to *context*."""
        handle = call.stream or LEGACY
        if handle == LEGACY:
            return Stream((context, LEGACY), context, StreamKind.LEGACY, "the legacy default stream", (), "1")
        if handle == PER_THREAD:
            label = f"the per-thread default stream of thread {call.thread}"
            return Stream((context, PER_THREAD, call.thread), context, StreamKind.BLOCKING, label, (), "2")
        kind = StreamKind.NON_BLOCKING if call.non_blocking else StreamKind.BLOCKING
        variable, label = self._variable(handle), self.label(handle)
        return Stream(object(), context, kind, label, (), f"{handle:#x}", variable=variable)

    def _variable(self, handle: int) -> str:
        where, variable = self._made.get(handle, ("", ""))
        return variable if self._lines.get(where) == 1 else ""


def kernel_name(symbol: str) -> str:
    """The name of a kernel as its source has it, without the types of parameters: ``at::native::sort``."""
    at = re.match(r"_Z(NK?|L)?", symbol)
    parts: list[str] = []
    rest = symbol[at.end() :] if at else ""
    while (length := re.match(r"L?(\d+)", rest)) and (not parts or rest[0] != "L"):
        end = length.end() + int(length[1])
        parts.append(rest[length.end() : end])
        rest = rest[end:]
    return "::".join(parts) or symbol or "without a name"


def work_of(call: Call) -> str:
    """What a call does, in words."""
    return f"kernel {kernel_name(call.symbol)!r}" if call.kind == "launch" else call.name


def library(call: Call) -> str:
    """The library whose work a launch is, as far as its name tells; else an empty string."""
    return next((name for start, name in _KERNELS.items() if call.symbol.startswith(start)), "")


def missing_line(consumer: Stream, producer: Stream) -> str:
    """The line that lets one stream wait for another: in the words of their library if both have one in common."""
    both = consumer.libraries | producer.libraries
    name = both.pop() if len(both) == 1 else ""
    if consumer.expression == str(PER_THREAD) or producer.expression == str(PER_THREAD):
        return (
            f"interop.as_stream({_expression(consumer, '')}).wait_event(event), for an event that was recorded on "
            f"{producer.label}, in that thread"
        )
    if name in _WAITS:
        return _WAITS[name].format(consumer=_expression(consumer, name), producer=_expression(producer, name))
    waiting = f"interop.as_stream({_expression(consumer, '')})"
    return f"{waiting}.wait_stream(interop.as_stream({_expression(producer, '')}))"


def kept_line(consumer: Stream, producer: Stream) -> str:
    """The line that keeps memory from a pool's next array for as long as *producer* uses it."""
    line = f"{missing_line(consumer, producer)}, before the pool has the memory back"
    if producer.libraries == {"torch"}:
        line += f"; or array.record_stream({_expression(producer, 'torch')})"
    return line


def _expression(stream: Stream, library: str) -> str:
    if stream.kind is StreamKind.LEGACY:
        return _DEFAULT.get(library, stream.expression)
    return stream.variable or stream.expression
