"""Assertions that code does not make the host wait for the device."""

import contextlib
from pathlib import Path

from interop import _cuda
from interop._safety.blocks import Block
from interop.adapters import with_current_stream
from interop.errors import DeadlockError
from interop.stream import ExternalStream, as_stream
from interop.testing.gate import Gate, gate
from interop.testing.witness import Witness


class _HostFree(Block[None]):
    """The block of :func:`assert_host_free`. It is a class, so that tracebacks show the test, and not contextlib."""

    _call = "assert_host_free"

    def __init__(self, streams: tuple[object, ...], timeout: float) -> None:
        self._named = [as_stream(stream) for stream in streams]
        self._streams = self._named or _current_streams()
        self._timeout = timeout
        self._entered = False

    def __enter__(self) -> None:
        __tracebackhide__ = True
        self._entered = True
        self._gates: list[Gate] = []
        self._waits: list[str] = []
        simulation = self._streams[0]._cuda.simulation
        with contextlib.ExitStack() as undo:
            for stream in self._streams:
                self._gates.append(gate(stream, self._timeout))
                undo.callback(self._gates[-1].let_pass)
            if simulation is not None:
                self._waits = undo.enter_context(simulation.host_waits(*self._named))
            self._witness = Witness()
            undo.callback(self._witness.leave)
            self._undo = undo.pop_all()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        __tracebackhide__ = True
        waited = any(shut.is_open for shut in self._gates)
        self._undo.close()
        if isinstance(error, DeadlockError):  # on the simulator, the host waited for a gate
            message = f"not host-free: {error}"
            raise AssertionError(message) from error  # noqa: TRY004  (it is the answer to an assertion)
        if error is None and self._waits:
            said = "\n".join(f"  {Path(wait).name}" for wait in self._waits)
            message = (
                f"not host-free: the host waited in the block for pending work:\n{said}\n{self._witness.account()}"
            )
            raise AssertionError(message)
        if error is None and waited:
            held = ", ".join(map(repr, self._streams))
            message = (
                f"not host-free: the block did not end within {self._timeout} s while a gate held {held}. "
                "It waited for the device, allocated or freed device memory, launched a kernel for the first time, "
                f"or took that long.\n{self._witness.account()}"
            )
            raise AssertionError(message)


def _current_streams() -> list[ExternalStream]:
    """The legacy default stream, and those that are current in the loaded libraries: each once."""
    cuda = _cuda.active()
    current = [
        as_stream(adapter.current_stream()) for adapter in with_current_stream(simulated=cuda.simulation is not None)
    ]
    return list(dict.fromkeys([as_stream(_cuda.LEGACY), *current]))


def assert_host_free(*streams: object, timeout: float = 5.0) -> Block[None]:
    """Assert that the ``with`` block does not wait for the work of *streams*, nor for the device as a whole.

    Example::

        with interop.testing.assert_host_free(producer):
            consumer.wait_stream(producer)  # producer.synchronize() would fail

    On a GPU, gates hold the streams shut, and the block has to end while they are shut. Work that the block submits to
    them runs afterwards. Run the block once before, since the first use of a kernel or of memory may wait for the
    device. On a GPU, two waits are *not* seen, since no gate holds them up: for work of other streams, and for an event
    that was recorded before the block.

    On the simulator the verdict is exact: the block fails if pending work had to run for the host to go on. A thread
    that starts in the block counts as part of the block.

    Args:
        streams: anything that :func:`interop.as_stream` takes. By default, on a GPU, the legacy default stream of the
            current device, which holds up all its blocking streams, and the streams that are current in the loaded
            libraries; on the simulator, all streams.
        timeout: seconds after which the gates open themselves. A block that waits for one then goes on, and fails. On
            the simulator, a host thread that waits for a gate gets a :class:`~interop.errors.DeadlockError` at once,
            and the block fails even if it catches that error.

    Raises:
        AssertionError: the host waited. The message says for what and where, if interop knows.
        InteropError: as :func:`interop.testing.gate`.
    """
    return _HostFree(streams, timeout)
