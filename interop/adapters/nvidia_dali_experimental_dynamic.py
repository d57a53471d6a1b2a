"""DALI's dynamic mode: evaluation contexts hold the current stream, and may submit work later, from another thread."""

import ctypes
from typing import Any, NamedTuple

import nvidia.dali.experimental.dynamic as ndd
from nvidia.dali import backend
from nvidia.dali.experimental.dynamic import _eval_context, _eval_mode

from interop.adapters.base import LEGACY, Adapter, Source, current_device


class _Before(NamedTuple):
    """The context that a `use` block changes, with its stream, and the stack of evaluation modes; all before it."""

    context: Any
    stream: Any
    modes: list[Any]


class DaliAdapter(Adapter):
    """nvidia.dali.experimental.dynamic.Stream. DALI's tensors have both protocols, for which they are evaluated."""

    library = "nvidia.dali.experimental.dynamic"
    streams_stay_the_same = True

    def stream_handle(self, stream: object) -> int | None:
        """0 is the legacy stream."""
        return int(stream.handle) or LEGACY if isinstance(stream, ndd.Stream) else None

    def stream_device(self, stream: object) -> int | None:
        """A stream has the device of its context, also a default stream."""
        return int(stream.device_id)  # type: ignore[attr-defined]

    def keeps_alive(self, stream: object) -> bool:
        """False for a stream over an address."""
        return not isinstance(stream._obj, int | ctypes.c_void_p)  # type: ignore[attr-defined]  # noqa: SLF001

    def make_stream(self, source: Source) -> object:
        """DALI asks the source for the handle and the device, and keeps it alive."""
        return ndd.stream(stream=source)

    def usable(self) -> bool:
        """Whether DALI finds a GPU."""
        return int(backend.GetCUDADeviceCount()) > 0

    def is_set_up(self, device: int) -> bool:
        """DALI makes the context of a thread and device at the first question, and a stream with it."""
        return device in _eval_context._tls.default  # noqa: SLF001

    def current_stream(self) -> object:
        """The stream of the thread's context."""
        return _context(current_device()).cuda_stream

    def before(self, stream: Any) -> object:  # noqa: ANN401
        """The stream that was set in the context, which is None where DALI has chosen one."""
        context = _context(stream.device_id)
        return _Before(context, context._cuda_stream, list(_modes()))  # noqa: SLF001

    def enter(self, stream: object, before: Any) -> None:  # noqa: ANN401
        """Set *stream*; and let operators return when their work is submitted, so that an event comes after it."""
        before.context._cuda_stream = stream  # noqa: SLF001
        if ndd.EvalMode.current().value < ndd.EvalMode.sync_cpu.value:
            _modes().append(ndd.EvalMode.sync_cpu)

    def leave(self, before: Any) -> None:  # noqa: ANN401
        """Set the previous stream and modes."""
        before.context._cuda_stream = before.stream  # noqa: SLF001
        _modes()[:] = before.modes


def _context(device: int) -> Any:  # noqa: ANN401
    """The context that the calling thread has entered, if it is of *device*; else its own one of the current device."""
    context = ndd.EvalContext.current()
    return context if context.device_id == device else ndd.EvalContext.default()


def _modes() -> list[Any]:
    """The calling thread's stack of evaluation modes."""
    stack: list[Any] = _eval_mode._tls.eval_mode_stack  # noqa: SLF001
    return stack


ADAPTER = DaliAdapter()
