"""Code that must not make the host wait for the device."""

import contextlib
from types import TracebackType

from interop import _cudart
from interop._block import Block
from interop.adapters import with_current_stream
from interop.errors import DeadlockError
from interop.stream import ExternalStream, as_stream
from interop.testing.gate import Gate, gate
from interop.testing.witness import Witness


class _HostFree(Block[None]):
    """A class, so that tracebacks show the test, and not contextlib."""

    _call = "assert_host_free"

    def __init__(self, streams: tuple[object, ...], timeout: float) -> None:
        self._streams = [as_stream(stream) for stream in streams] or _current_streams()
        self._timeout = timeout
        self._entered = False

    def __enter__(self) -> None:
        __tracebackhide__ = True
        self._entered = True
        self._gates: list[Gate] = []
        with contextlib.ExitStack() as undo:
            for stream in self._streams:
                self._gates.append(undo.enter_context(gate(stream, self._timeout)))
            undo.pop_all()
        self._witness = Witness()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._witness.leave()
        waited = any(shut.is_open for shut in self._gates)
        for shut in reversed(self._gates):
            shut.let_pass()
        if isinstance(error, DeadlockError):  # of the simulator, whose host waits for nothing that cannot come
            message = f"not host-free: {error}"
            raise AssertionError(message) from error  # noqa: TRY004  (it is the answer to an assertion)
        held = ", ".join(map(repr, self._streams))
        if error is None and any(shut.has_refused for shut in self._gates):
            message = (
                f"not host-free: the block would have waited while a gate held {held}; it has caught the "
                f"DeadlockError that says for what.\n{self._witness.account()}"
            )
            raise AssertionError(message)
        if error is None and waited:
            message = (
                f"not host-free: the block did not come through within {self._timeout} s while a gate held {held}. "
                "It waited for the device, allocated or freed its memory, launched a kernel for the first time, "
                f"or took that long.\n{self._witness.account()}"
            )
            raise AssertionError(message)


def _current_streams() -> list[ExternalStream]:
    """The legacy default stream, and those that are current in the loaded libraries: each once."""
    cuda = _cudart.active()
    current = [
        as_stream(adapter.current_stream()) for adapter in with_current_stream(simulated=cuda.simulation is not None)
    ]
    return list(dict.fromkeys([as_stream(_cudart.LEGACY), *current]))


def assert_host_free(*streams: object, timeout: float = 5.0) -> Block[None]:
    """Assert that the ``with`` block does not wait for the work of *streams*, nor for the device as a whole.

    The streams are shut by gates, and the block has to come through while they are: no time is measured. What it
    submits to them runs afterwards. Run the block once before: what is compiled, loaded and allocated for the first
    time may wait for the device.

    Args:
        streams: anything that :func:`interop.as_stream` takes. By default the legacy default stream of the current
            device, which holds up all its blocking streams, and those that are current in the loaded libraries.
        timeout: seconds after which the gates open themselves: a block that waits goes on then, and fails. On the
            simulator it gets a :class:`~interop.errors.DeadlockError` at once, and fails, caught or not.

    Raises:
        AssertionError: the block came to its end only after the gates had to open themselves.
        InteropError: as :func:`interop.testing.gate`.
    """
    return _HostFree(streams, timeout)
