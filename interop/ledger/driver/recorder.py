"""The recorder of the driver's calls: C writes them to a file while the program runs, and this reads the file.

The file has chunks, each of one thread: the thread's number, the length, and the records. recorder.h has their layout.
"""

import atexit
import ctypes
import heapq
import itertools
import os
import struct
import sys
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Final

from interop._native import native, why_not
from interop.ledger.driver.calls import Call
from interop.ledger.driver.codes import Codes
from interop.ledger.driver.cupti import Cupti, EyeShut

if TYPE_CHECKING:
    from types import CodeType

_CHUNK: Final = struct.Struct("=QQ")
_RECORD: Final = struct.Struct("=IBBHQQQQQQQQQII")
_NON_BLOCKING, _CAPTURING, _WALKED, _EXTRA = 1, 2, 4, 8
_ASKED: Final = ("cuFuncGetParamInfo", "cuKernelGetParamInfo", "cuStreamIsCapturing", "cuStreamGetFlags")
_NEEDED: Final = {"cuLaunchKernel", "cuMemcpyAsync", "cuMemsetD8Async", "cuEventRecord", "cuStreamWaitEvent"}


opened: "list[Recorder]" = []
"""The recorder that is open in this process, if one is."""


class Recorder:
    """Records every call that this process makes of the driver, in all threads. One at a time is open in a process.

    Attributes:
        lost: how many records, or whole buffers of them, found no room in the file.
        has_lines: whether the lines of Python are recorded with the calls.
        codes: the codes that the lines belong to; what is kept there is found even when it is gone elsewhere.
    """

    def __init__(self, library: str | None = None, driver: str = "libcuda.so.1") -> None:
        """Nothing is recorded before :meth:`open`.

        Args:
            library: the path of libcupti; by default the one that this process uses.
            driver: the driver's library.
        """
        self.lost = 0
        self.has_lines = False
        self.codes = Codes()
        self._library, self._driver_name = library, driver
        self._cupti: Cupti | None = None
        self._process = 0
        self._file: IO[bytes] | None = None
        self._at = self._defined = 0
        self._kinds: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        self._kernels: dict[int, tuple[str, tuple[int, ...]]] = {0: ("", ())}
        self._stacks: dict[int, tuple[int, ...]] = {}
        self._places: dict[int, tuple[tuple[CodeType, int], ...]] = {0: ()}
        self._modules: dict[int, int] = {}

    def open(self) -> None:
        """Record from now on.

        Raises:
            EyeShut: it cannot be; the error says why, and what to do.
        """
        if opened:
            raise EyeShut("it is open already", "leave the block that has opened it first")
        if native is None:
            why = f"it needs interop's extension in C: {why_not}"
            raise EyeShut(why, "install interop where there is a C compiler")
        try:
            driver = ctypes.CDLL(self._driver_name)
            addresses = tuple(ctypes.cast(getattr(driver, name), ctypes.c_void_p).value for name in _ASKED)
        except (OSError, AttributeError) as error:
            why = f"the driver cannot be asked: {error}"
            raise EyeShut(why, "it needs a GPU with a driver of CUDA 12.4 or later") from error
        cupti = Cupti(self._library)
        names = cupti.names()
        if missing := _NEEDED.difference(names):
            why = f"{cupti.path} does not know {', '.join(sorted(missing))}"
            raise EyeShut(why, "take a libcupti of the driver's version of CUDA")
        self._file = tempfile.TemporaryFile(prefix="interop")  # noqa: SIM115  (open for as long as it can be read)
        weakref.finalize(self, self._file.close)
        address, self._kinds, self._names, calls = native.recorder_open(self._file.fileno(), addresses, names)
        self.has_lines = native.frames_open(sys._getframe(), True)  # noqa: FBT003
        try:
            cupti.subscribe(address, calls)
        except EyeShut:
            cupti.unsubscribe()
            native.recorder_flush(True)  # noqa: FBT003
            raise
        self._cupti, self._process = cupti, os.getpid()
        opened.append(self)
        atexit.register(self.close)

    def close(self) -> None:
        """Record no more. What was recorded can still be read."""
        if native is not None and self._cupti is not None and os.getpid() == self._process:
            self._cupti.unsubscribe()
            self.codes.look()
            native.recorder_flush(True)  # noqa: FBT003
            atexit.unregister(self.close)
            opened.remove(self)
        self._cupti = None

    def note(self, kind: str, stream: int = 0, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
        """Write a record of what the driver does not see, in the order of all calls."""
        assert native is not None
        native.recorder_note(self._kinds.index(kind), stream, a, b, c, d)

    def module(self, number: int) -> bytes:
        """The machine code of a module that was loaded."""
        assert self._file is not None
        return os.pread(self._file.fileno(), self._modules[number], number)

    def calls(self) -> Iterator[Call]:
        """All calls that have not been given yet, in the order of their numbers."""
        start, self._at = self._at, self._end()
        return self._between(start, self._at)

    def mark(self) -> int:
        """Where the record has come to, for :meth:`since`."""
        end = self._end()
        for _ in self._between(self._defined, end):
            pass  # what calls refer to is told when it is first seen
        self._defined = end
        return end

    def since(self, mark: int) -> Iterator[Call]:
        """All calls since :meth:`mark`, whether or not they were given."""
        return self._between(mark, self._end())

    def _end(self) -> int:
        if native is None or self._file is None:
            return 0
        end, self.lost = native.recorder_flush(False)  # noqa: FBT003
        return int(end)

    def _between(self, at: int, end: int) -> Iterator[Call]:
        """The calls in a part of the file."""
        chunks: dict[int, list[tuple[int, int]]] = {}
        while at < end:
            assert self._file is not None
            thread, length = _CHUNK.unpack(os.pread(self._file.fileno(), _CHUNK.size, at))
            chunks.setdefault(thread, []).append((at + _CHUNK.size, length))
            at += _CHUNK.size + length
        threads = [self._records(thread, places) for thread, places in chunks.items()]
        looked = itertools.count()
        for number, thread, start, record in heapq.merge(*threads):
            call = self._call(number, thread, start, record, looked)
            if call is not None:
                yield call

    def _records(self, thread: int, places: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, memoryview]]:
        """A thread's records: the number, the thread, where in the file, and the bytes."""
        assert self._file is not None
        for start, length in places:
            data = memoryview(os.pread(self._file.fileno(), length, start))
            at = 0
            while at < length:
                size, _, _, _, number = _RECORD.unpack_from(data, at)[:5]
                yield number, thread, start + at, data[at : at + size]
                at += size

    def _call(
        self, number: int, thread: int, start: int, data: memoryview, looked: "itertools.count[int]"
    ) -> Call | None:
        _, kind_number, flags, name, _, time, context, stream, a, b, c, d, stack, kernel, count = _RECORD.unpack_from(
            data
        )
        kind = self._kinds[kind_number]
        words = struct.unpack_from(f"={count}Q", data, _RECORD.size) if count else ()
        symbol = ""
        parameters: tuple[tuple[int, int], ...] = ()
        if kind == "kernel":
            text = bytes(data[_RECORD.size + 8 * count :]).rstrip(b"\0").decode(errors="replace")
            self._kernels[kernel] = (text, words)
            return None
        if kind == "stack":
            self._stacks[stack] = words
            return None
        if kind == "module":
            self._modules[start + _RECORD.size] = a
            return Call(number, kind, thread=thread, a=start + _RECORD.size)
        if kind == "launch":
            symbol, offsets = self._kernels[kernel]
            if flags & _EXTRA:
                offsets = tuple(range(0, 8 * count, 8))
            parameters = tuple(zip(offsets, words, strict=True)) if count else ()
        place = self._places.get(stack)
        if place is None:
            frames = self._stacks[stack]
            if not self.codes.knows(frames) and not next(looked):
                self.codes.look()
            place = self._places[stack] = self.codes.place(frames)
        return Call(
            number, kind, self._names[name], thread, context, stream, bool(flags & _NON_BLOCKING),
            bool(flags & _CAPTURING), a, b, c, d, symbol, parameters, kind != "launch" or bool(flags & _WALKED), place,
            time,
        )  # fmt: skip
