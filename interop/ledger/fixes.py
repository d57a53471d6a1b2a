"""The line of code that orders two streams, in the words of the program."""

import contextlib
import inspect
import itertools
import sys
from types import FrameType
from typing import Final

from interop import _cuda
from interop._core.names import identity_of
from interop.errors import InteropError
from interop.ledger.streams import KnownStream
from interop.stream import as_stream

_REFERENCES: Final = 3
"""References to a frame's variables if nobody called locals(): the frame's, ours, and that of the question."""


class Fixes:
    """Writes the lines that order streams: with the variables of *frame*, or with the streams' addresses."""

    def __init__(self, frame: FrameType | None) -> None:
        self._frame = frame
        self._names: dict[tuple[object, ...], str] | None = None

    def line(self, consumer: KnownStream, producer: KnownStream) -> str:
        """The line that lets *consumer* wait for *producer*."""
        waiting = f"interop.as_stream({self._name(consumer) or consumer.expression})"
        if producer.expression.startswith(f"{_cuda.PER_THREAD},"):  # only its own thread can name it
            return f"{waiting}.wait_event(event), for an event that was recorded on {producer.label}, in that thread"
        return f"{waiting}.wait_stream({self._name(producer) or f'interop.as_stream({producer.expression})'})"

    def _name(self, stream: KnownStream) -> str | None:
        if self._names is None:
            self._names = {} if self._frame is None else _stream_variables(self._frame)
        return self._names.get(stream.identity)


def _stream_variables(frame: FrameType) -> dict[tuple[object, ...], str]:
    """The first variable of *frame* that holds a stream, for each stream by its :func:`identity_of`."""
    found: dict[tuple[object, ...], str] = {}
    variables = frame.f_locals
    # Copies: another thread may create a global variable meanwhile.
    for name, value in itertools.chain(list(variables.items()), list(frame.f_globals.items())):
        # Other objects are not passed to as_stream: their properties may do anything.
        if any("Stream" in cls.__name__ for cls in type(value).__mro__):
            with contextlib.suppress(InteropError):
                found.setdefault(identity_of(as_stream(value)), name)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        # Before Python 3.13, f_locals is a copy. It would keep what the function deletes alive until the function
        # returns. More references than ours mean that somebody has called locals(), and owns the copy.
        if sys.getrefcount(variables) <= _REFERENCES:
            variables.clear()
    return found
