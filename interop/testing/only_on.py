"""An assertion on where the work of all libraries goes: the driver tells."""

from typing import Final

from interop._safety.blocks import Block
from interop._show.callsite import where_of
from interop.errors import NotSupportedError
from interop.ledger.driver import recorder
from interop.ledger.driver.calls import Call
from interop.stream import as_stream

_WORK: Final = {"launch", "copy", "set", "host copy", "host set", "graph launch"}
_SHOWN: Final = 10


class _OnlyOn(Block[None]):
    """The block of :func:`assert_only_on`. It is a class, so that tracebacks show the test, and not contextlib."""

    _call = "assert_only_on"

    def __init__(self, streams: tuple[object, ...]) -> None:
        self._streams = [as_stream(stream) for stream in streams]
        if not self._streams or self._streams[0]._cuda.simulation is not None:
            message = "assert_only_on takes one stream or more, of a real GPU: what is simulated calls no driver"
            raise NotSupportedError(message)
        self._entered = False

    def __enter__(self) -> None:
        __tracebackhide__ = True
        self._entered = True
        self._own = None
        if not recorder.opened:
            self._own = recorder.Recorder()
            self._own.open()
        self._recorder = recorder.opened[0]
        self._mark = self._recorder.mark()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        __tracebackhide__ = True
        if self._own is not None:
            self._own.close()
        if error is not None:
            return
        allowed = {stream.cuda_stream for stream in self._streams}
        other = [call for call in self._recorder.since(self._mark) if call.kind in _WORK and call.stream not in allowed]
        if other:
            named = ", ".join(map(repr, self._streams))
            lines = dict.fromkeys(_line(call) for call in other)
            more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            message = f"not only on {named}:\n" + "\n".join(list(lines)[:_SHOWN]) + more
            raise AssertionError(message)


def _line(call: Call) -> str:
    stream = {1: "the legacy default stream", 2: "the per-thread default stream"}.get(call.stream, f"{call.stream:#x}")
    what = f"kernel {call.symbol!r}" if call.kind == "launch" else call.name
    return f"  {what} on {stream} ({where_of(call.place)[0]})"


def assert_only_on(*streams: object) -> Block[None]:
    """Assert that all work that the ``with`` block submits goes to *streams*, whichever library submits it.

    Example::

        import cupy

        x = cupy.ones(1 << 20)
        with interop.testing.assert_only_on(producer), interop.use(producer):
            x += 1  # fails if a library launches, copies or sets anything on another stream

    The driver's calls are recorded for the length of the block, in all threads: see :mod:`interop.ledger` for
    what that needs. Work is submitted, not waited for. A synchronous copy is work on a default stream.

    Args:
        streams: anything that :func:`interop.as_stream` takes, on a GPU. Handles 1 and 2 mean the default streams of
            any thread and context.

    Raises:
        AssertionError: work went to other streams. The message has each call, its stream, and the line of code.
        NotSupportedError: there is no stream, a stream is simulated, or the calls of the driver cannot be recorded.
    """
    return _OnlyOn(streams)
