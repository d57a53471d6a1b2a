"""Gates: a stream is held shut until a test opens it, by a store to memory that no Python thread has to make."""

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
from collections.abc import Iterator
from typing import Any

from interop import _cudart
from interop.errors import NotSupportedError
from interop.stream import as_stream

# One page of memory, pinned once, shared with the keeper process; each gate has a slot of 16 bytes in it:
# a 32-bit word that the stream waits for (0 shut, 1 opened, 2 opened by the keeper), four bytes of nothing, and the
# time, as a double of CLOCK_MONOTONIC, at which the keeper opens it (0: never).
_PAGE = mmap.PAGESIZE
_SLOT = 16
_OPENED, _OVERDUE = 1, 2

_KEEPER = """
import mmap, select, struct, sys, time
page = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
while not select.select([sys.stdin], [], [], 0.005)[0]:  # until the parent closes the pipe, or is gone
    for slot in range(0, mmap.PAGESIZE, 16):
        word, deadline = struct.unpack_from("=I4xd", page, slot)
        if not word and deadline and time.monotonic() > deadline:
            struct.pack_into("=I", page, slot, 2)
page[::16] = b"\\2" * (mmap.PAGESIZE // 16)
"""


class _Keeper:
    """The shared page, and the process that opens what is overdue even while this one is blocked, GIL and all."""

    def __init__(self) -> None:
        # The file has no name, and is the keeper's by inheritance.
        file = os.memfd_create("interop-gates")
        os.ftruncate(file, _PAGE)
        self._page = mmap.mmap(file, _PAGE)
        self._lock = threading.Lock()
        self._free = list(range(0, _PAGE, _SLOT))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._device_address = _cudart.GPU.host_register(address, _PAGE)
        self._process = subprocess.Popen(  # noqa: S603  (our own code, in our own Python)
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(file)], stdin=subprocess.PIPE, pass_fds=[file]
        )
        os.close(file)
        atexit.register(self._process.communicate)

    def take(self, timeout: float) -> int:
        """A slot of its own, shut, that opens itself after *timeout* seconds."""
        with self._lock:
            slot = self._free.pop(0)
        ctypes.c_double.from_buffer(self._page, slot + 8).value = time.monotonic() + timeout
        ctypes.c_uint32.from_buffer(self._page, slot).value = 0
        return slot

    def give_back(self, slot: int) -> None:
        # At the end of the queue: a stream may not have looked at an opened slot yet, so it is used again late.
        with self._lock:
            self._free.append(slot)

    def word(self, slot: int) -> Any:  # noqa: ANN401  (a ctypes instance)
        return ctypes.c_uint32.from_buffer(self._page, slot)

    def device_address(self, slot: int) -> int:
        return self._device_address + slot


@functools.cache
def _keeper() -> _Keeper:
    return _Keeper()


class Gate:
    """A closed gate on a stream; made by :func:`gate`."""

    def __init__(self, slot: int) -> None:
        """Remember the slot; :func:`gate` has queued the wait for it."""
        self._word = _keeper().word(slot)

    @property
    def is_open(self) -> bool:
        """Whether the stream may pass."""
        return bool(self._word.value)

    def open(self) -> None:
        """Let the stream pass: one store to memory, no CUDA call.

        Raises:
            AssertionError: the gate had to open itself, because the host was blocked, or slow.
        """
        if self._word.value == _OVERDUE:
            message = (
                "the gate had to open itself: the host did not come to open it in time. Something in the block waited "
                "for the device"
            )
            raise AssertionError(message)
        self.let_pass()

    def let_pass(self) -> None:
        """Let the stream pass, and ask no questions."""
        self._word.value = _OPENED


@contextlib.contextmanager
def gate(stream: object, timeout: float = 10.0) -> Iterator[Gate]:
    """Hold up *stream*: work that is submitted to it in the block waits until the gate opens, at the latest on exit.

    While the gate is shut, do not synchronise with the stream, do not allocate or free device memory, and launch no
    kernel for the first time: all of these may wait for the device, for ever. "For ever" ends after *timeout* seconds,
    when another process opens the gate, and the test fails. Garbage collection is off meanwhile, for the same reason.

    Args:
        stream: anything that :func:`interop.as_stream` takes, of a GPU or a simulation.
        timeout: seconds after which the gate opens itself.

    Raises:
        AssertionError: on exit, if it had to open itself.
        NotSupportedError: the stream captures, or the platform is not Linux.
    """
    stream = as_stream(stream)
    if stream._cuda.simulation is not None:
        with stream._cuda.simulation.gate(stream) as simulated:
            yield simulated
        return
    if sys.platform != "linux":
        message = "gates need shared memory without a name (memfd), which only Linux has"
        raise NotSupportedError(message)
    if stream.is_capturing():
        message = f"{stream!r} captures a graph: a gate would become part of it, and open too late for every launch"
        raise NotSupportedError(message)
    keeper = _keeper()
    slot = keeper.take(timeout)
    shut = Gate(slot)
    # Garbage that is collected meanwhile may hold device memory, and freeing that waits for the device.
    collects = gc.isenabled()
    gc.disable()
    try:
        stream._cuda.stream_wait_value(stream._handle, keeper.device_address(slot), _OPENED, stream._needs)
        yield shut
    except BaseException:
        shut.let_pass()
        raise
    else:
        shut.open()
    finally:
        keeper.give_back(slot)
        if collects:
            gc.enable()
