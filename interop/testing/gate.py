"""Gates hold a stream shut until a test opens them. If the test does not, another process does."""

import atexit
import contextlib
import ctypes
import functools
import gc
import mmap
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

from interop import _cuda
from interop._core import captures
from interop._safety import forks
from interop._show.text import described
from interop.errors import CaptureError, DeadlockError, InteropError, NotSupportedError
from interop.stream import ExternalStream, as_stream
from interop.testing import device

if TYPE_CHECKING:
    from interop.sim import Gate as SimulatedGate

# One page of memory, pinned once and shared with the keeper process, in slots of 16 bytes. Each slot has a 32-bit
# counter, for which streams wait; the value of the counter at which the slot is open; and the time, as a double of
# CLOCK_MONOTONIC, at which the keeper opens the slot (negative: the keeper has opened it). The next use of a slot waits
# for the next value. So a stream of the last use that has not read the counter yet still passes.
_PAGE: Final = mmap.PAGESIZE
_SLOT: Final = 16

_KEEPER: Final = """
import mmap, select, struct, sys, time
page = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
orphaned = False
while not orphaned:
    orphaned = bool(select.select([sys.stdin], [], [], 0.005)[0])  # the parent has closed the pipe, or is gone
    for slot in range(0, mmap.PAGESIZE, 16):
        count, opens_at, deadline = struct.unpack_from("=IId", page, slot)
        if count != opens_at and (orphaned or 0 < deadline < time.monotonic()):
            struct.pack_into("=d", page, slot + 8, -1.0)
            struct.pack_into("=I", page, slot, opens_at)
"""


class _Keeper:
    """The shared page, and the process that opens overdue slots, even while this one is blocked with the GIL held."""

    def __init__(self) -> None:
        # The file has no name. The keeper inherits its descriptor.
        file = os.memfd_create("interop-gates")
        os.ftruncate(file, _PAGE)
        self.page = mmap.mmap(file, _PAGE)
        self.free = deque(range(0, _PAGE, _SLOT))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        self.device_address = device.host_register(_cuda.GPU, address, _PAGE)
        self._process = subprocess.Popen(  # noqa: S603  (our own code, in our own Python)
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(file)],
            stdin=subprocess.PIPE,
            pass_fds=[file],
            start_new_session=True,  # Ctrl-C goes to every process of the terminal's group
        )
        os.close(file)
        atexit.register(self._process.communicate)

    def take(self) -> int:
        """Take a free slot."""
        if self._process.poll() is not None:
            message = (
                f"the process that opens overdue gates has ended, with status {self._process.returncode}: a gate that "
                "the test does not open would hang for ever. Restart Python"
            )
            raise DeadlockError(message)
        try:
            return self.free.popleft()
        except IndexError:
            message = f"{_PAGE // _SLOT} gates are shut, and there can be no more: open some of them"
            raise NotSupportedError(message) from None


@functools.cache
def _keeper() -> _Keeper:
    return _Keeper()


class _Slot:
    """One use of a slot: shut from the start."""

    def __init__(self, timeout: float) -> None:
        self._keeper = _keeper()
        self._slot = self._keeper.take()
        page = self._keeper.page
        self._count: Any = ctypes.c_uint32.from_buffer(page, self._slot)  # ctypes has no types for this
        self._deadline: Any = ctypes.c_double.from_buffer(page, self._slot + 8)
        self.address = self._keeper.device_address + self._slot
        self.opens_at = ctypes.c_uint32(self._count.value + 1).value
        # The deadline first: the keeper looks at it only while the slot is shut.
        self._deadline.value = time.monotonic() + timeout
        ctypes.c_uint32.from_buffer(page, self._slot + 4).value = self.opens_at

    @property
    def is_open(self) -> bool:
        return bool(self._count.value == self.opens_at)

    @property
    def is_overdue(self) -> bool:
        """Whether the keeper had to open it."""
        return bool(self._deadline.value < 0)

    def open(self) -> None:
        self._count.value = self.opens_at

    def give_back(self) -> None:
        self._keeper.free.append(self._slot)


class _Collection:
    """Keeps the garbage collector off while a gate is shut: to free garbage's device memory may wait for the device."""

    def __init__(self) -> None:
        self._lock = forks.lock()  # a gate may be garbage itself
        self._was_on = False
        self.shut: dict[_Slot, threading.Timer] = {}

    def pause(self, slot: _Slot, timeout: float) -> None:
        """Turn the collector off until :meth:`resume`, or until *timeout* if the test never opens the gate."""
        alarm = threading.Timer(timeout, self.resume, [slot])
        alarm.daemon = True
        with self._lock:
            if not self.shut:
                self._was_on = gc.isenabled()
                gc.disable()
            self.shut[slot] = alarm
        alarm.start()

    def resume(self, slot: _Slot) -> None:
        with self._lock:
            alarm = self.shut.pop(slot, None)
            if alarm is not None and not self.shut and self._was_on:
                gc.enable()
        if alarm is not None:
            alarm.cancel()


_collection: Final = _Collection()


def some_are_shut() -> bool:
    """Whether a gate on a GPU is shut in this process."""
    return bool(_collection.shut)


_gates: "Final[weakref.WeakSet[Gate]]" = weakref.WeakSet()


def forgotten() -> "list[Gate]":
    """The gates that are still referenced, had to open themselves, and were not opened by the test since."""
    return [shut for shut in list(_gates) if not shut._passed and shut.is_overdue]


class Gate:
    """Holds a stream shut; made by :func:`gate`.

    As a context manager, it opens on exit. A shut gate to which nothing refers any more opens, with a warning. A gate
    that is kept opens itself after *timeout* seconds; with interop's plugin for pytest, the test that has just run then
    fails.

    Attributes:
        stream: the stream that the gate holds shut.
        timeout: seconds after which the gate opens itself.
    """

    def __init__(self, stream: ExternalStream, timeout: float) -> None:
        self._passed = True  # for __del__, if what follows fails
        self._overdue = False
        self.stream = stream
        self.timeout = timeout
        self._latch: _Slot | SimulatedGate
        if stream._cuda.simulation is not None:
            self._latch = stream._cuda.simulation.gate(stream, timeout)
        else:
            self._latch = slot = _Slot(timeout)
            _collection.pause(slot, timeout)
            try:
                device.stream_wait_value(stream._cuda, stream._handle, slot.address, slot.opens_at, stream._needs)
            except BaseException:
                slot.open()
                self._end(slot)
                raise
        self._passed = False
        _gates.add(self)

    @property
    def is_open(self) -> bool:
        """Whether the stream may pass."""
        return self._passed or self._latch.is_open

    @property
    def is_overdue(self) -> bool:
        """Whether the gate had to open itself, and :meth:`open` has not raised for it yet."""
        return self._overdue or (not self._passed and self._latch.is_overdue)

    def open(self) -> None:
        """Let the stream pass, by one store to memory and no CUDA call. To open the gate again changes nothing.

        Raises:
            AssertionError: the gate had to open itself, because the host was blocked, or slow.
        """
        __tracebackhide__ = True
        self.let_pass()
        if self._overdue:
            self._overdue = False
            message = (
                f"the gate on {self.stream!r} had to open itself: the host did not open it within {self.timeout} s. "
                "Something in the block waited for the device, or took that long"
            )
            raise AssertionError(message)

    def let_pass(self) -> None:
        """Let the stream pass, and raise nothing."""
        if not self._passed:
            self._passed = True
            if not self._latch.is_open:  # it is open if its simulation has ended
                self._latch.open()
            self._overdue = self._latch.is_overdue
            if isinstance(self._latch, _Slot):
                self._end(self._latch)

    @staticmethod
    def _end(slot: _Slot) -> None:
        slot.give_back()
        _collection.resume(slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Open the gate. If the block has raised, that exception goes on, and an overdue gate adds none."""
        __tracebackhide__ = True
        if error is None:
            self.open()
        else:
            self.let_pass()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit the keeper opens all gates.
        if not self._passed and not _finalizing():
            with contextlib.suppress(InteropError):  # the simulation has ended
                self.let_pass()
            message = f"a gate on {self.stream!r} was forgotten: open it, or use it as a context manager"
            warnings.warn(message, ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<interop.testing.Gate on {self.stream!r}, {'open' if self.is_open else 'shut'}>"


def gate(stream: object, timeout: float = 10.0) -> Gate:
    """Shut *stream*: work that is submitted to it from now on waits until the gate opens.

    Example::

        with interop.testing.gate(producer):
            consumer.wait_stream(producer)  # without this line, the last assertion fails
            assert not producer.query()
            assert not consumer.query()

    The end of the ``with`` block opens the gate, or :meth:`Gate.open` does. After *timeout* seconds another process
    opens it, even if this process is blocked, and the test fails. So a forgotten gate cannot hang a run.

    While a gate is shut, do not synchronise with the stream, do not allocate or free device memory, and do not launch a
    kernel for the first time: each may wait for the device. The garbage collector is off meanwhile, for the same
    reason. On the simulator, a host thread that waits for a shut gate gets a :class:`~interop.errors.DeadlockError` at
    once. A host thread that polls goes on after *timeout* seconds, as on a GPU.

    Args:
        stream: anything that :func:`interop.as_stream` takes, of a GPU or a simulation. A gate on the legacy default
            stream also holds the later work of all blocking streams of its device.
        timeout: seconds after which the gate opens itself.

    Raises:
        AssertionError: on exit, if the gate had to open itself.
        CaptureError: *stream* is the legacy default stream, and a blocking stream captures. The gate would break the
            capture.
        NotSupportedError: the stream captures; the platform is not Linux; or 256 gates are shut.
        DeadlockError: the gate could not be opened in time. ``CUDA_LAUNCH_BLOCKING`` makes the host wait for every
            kernel; or the process that opens overdue gates has ended.
        ValueError: *timeout* is not a number of seconds above 0, or is more than ``threading.TIMEOUT_MAX``.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= threading.TIMEOUT_MAX:
        message = f"timeout is a number of seconds above 0, up to {threading.TIMEOUT_MAX:.0f}; got {described(timeout)}"
        raise ValueError(message)
    stream = as_stream(stream)
    stream._usable_context()
    try:
        is_capturing = bool(captures.capture_of(stream))
    except CaptureError:
        if stream.cuda_stream == _cuda.LEGACY:
            raise
        is_capturing = True  # an invalidated capture goes on until it is ended
    if is_capturing:
        message = (
            f"{stream!r} captures a graph, and a gate would become part of the graph: make the gate after the capture"
        )
        raise NotSupportedError(message)
    if stream._cuda.simulation is None:
        _refuse_deadlock(stream)
    return Gate(stream, timeout)


def _refuse_deadlock(stream: ExternalStream) -> None:
    """Refuse a gate that this platform cannot make, or that the host could not open."""
    if sys.platform != "linux":
        message = "gates need a memory file without a name (memfd), which only Linux has"
        raise NotSupportedError(message)
    # https://docs.nvidia.com/cuda/cuda-c-programming-guide/#concurrent-execution-between-host-and-device
    if os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        message = (
            f"a gate on {stream!r} would never be opened: with CUDA_LAUNCH_BLOCKING set, the host waits for every "
            "kernel that it launches, also behind the gate. Unset the variable before Python starts"
        )
        raise DeadlockError(message)
