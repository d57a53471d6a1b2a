"""The driver's eye for the length of a block: what is recorded meanwhile is judged when somebody asks."""

import ctypes
import functools
from collections.abc import Callable, Iterator

from interop._core.names import name_at
from interop._order.findings import Kind
from interop._safety import forks
from interop._show.progress import Line
from interop._show.text import plural
from interop.ledger.driver.calls import Call
from interop.ledger.driver.cupti import EyeShut
from interop.ledger.driver.eye import Eye
from interop.ledger.driver.pools import Pools
from interop.ledger.driver.recorder import Recorder, opened
from interop.ledger.driver.reports import kernel_name
from interop.ledger.kernels import Access, Kernels
from interop.ledger.tally import Tally

_DRIVER = "libcuda.so.1"
_SILENT = 1.0
"""Seconds of judging before a line on the terminal says how far it is."""
_DEVICES = 64


class Watch:
    """Records the driver's calls from :meth:`open` to :meth:`close`. Usable from every thread."""

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._recorder = Recorder()
        self._pools = Pools(self._recorder)
        self._lock = forks.lock()
        self._line = Line()
        self._eye: Eye | None = None

    def open(self) -> None:
        """Record from now on.

        Raises:
            EyeShut: it cannot be; the error says why, and what to do.
        """
        self._recorder.open()
        try:
            self._kernels = _kernels()
            self._eye = Eye(self, name_at, _asker())
            self._pools.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Record no more, and judge what was recorded: the kernels that it has seen are known to the next watch."""
        self._pools.close()
        self._recorder.close()
        if self._eye is not None:
            self._judged()

    def tally(self) -> Tally:
        """What was found in all calls so far. A line on the terminal says how far it is, if that takes long."""
        eye = self._judged()
        return Tally(eye.accesses, eye.captured, dict(eye.findings), eye.verdict.left_out)

    @property
    def blind(self) -> list[str]:
        """What was seen and could not be judged, in sentences."""
        lines = [] if self._recorder.has_lines else ["the lines of code: this version of Python keeps them elsewhere"]
        return self._judged().blind + lines

    def start_anew(self) -> None:
        """Judge all calls so far, and forget what they have accessed: later calls are compared with none of them."""
        self._judged().forget_accesses()

    def _judged(self) -> Eye:
        assert self._eye is not None  # somebody has opened it
        eye = self._eye
        with self._lock:
            try:
                eye.take(self._calls())
            except BaseException:
                eye.doubt("the judging of calls was interrupted, and some were left out")
                raise
            eye.lose(self._recorder.lost)
            return eye

    def access(self, symbol: str) -> Access | None:
        """What a kernel does with its parameters. To read its code may take a second."""
        if self._line.is_due():
            self._line.show(f"interop: reading the code of kernel {kernel_name(symbol)}")
        return self._kernels.access(symbol)

    def declare(self, address: int, size: int, kind: Kind, stream: int) -> None:
        """The program says what its next work on a stream does to *size* bytes."""
        self._recorder.note("array", stream, address, 0, size, kind)

    def hear(self, thread: int) -> None:
        """The program says that a thread, by its native number, has told the calling thread that it is done so far."""
        self._recorder.note("array", 0, thread)

    def _calls(self) -> Iterator[Call]:
        with Line(_SILENT) as line:
            self._line = line
            for number, call in enumerate(self._pools.merged(self._recorder.calls())):
                if line.is_due():
                    line.show(f"interop: judging the driver's calls: {plural(number, 'call')} so far")
                if call.kind == "module":
                    self._kernels.add_module(self._recorder.module(call.a))
                yield call


class Window:
    """What a watch sees from :meth:`open` to :meth:`close`, while somebody else holds the watch open for longer."""

    def __init__(self, whole: Watch) -> None:
        """Nothing is counted yet."""
        self._whole = whole
        self._end: Tally | None = None

    def open(self) -> None:
        """Count from now on."""
        self._whole.start_anew()
        self._before = self._whole.tally()

    def close(self) -> None:
        """Count no more."""
        self._end = self.tally()

    def tally(self) -> Tally:
        """What was found in this window."""
        return self._end or self._whole.tally().since(self._before)

    @property
    def blind(self) -> list[str]:
        """What the whole watch could not judge."""
        return self._whole.blind

    def declare(self, address: int, size: int, kind: Kind, stream: int) -> None:
        """As :meth:`Watch.declare`."""
        self._whole.declare(address, size, kind, stream)

    def hear(self, thread: int) -> None:
        """As :meth:`Watch.hear`."""
        self._whole.hear(thread)


shared: list[Watch] = []
"""The watch that is held open for a whole run of tests, if there is one: it has seen all kernels being loaded."""


def why_late() -> str:
    """Why the eye would be opened too late to see everything; empty if it is in time."""
    if opened:
        return "the driver's eye is open already, in a block around this one"
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ""  # opening it will say so
    flags, active = ctypes.c_uint(), ctypes.c_int()
    for device in range(_DEVICES):
        if driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)):
            break  # CUDA was not initialised, or there is no such device
        if active.value:
            return (
                "the driver's eye stays shut: CUDA was in use before the block, so it would not know the kernels that "
                'were loaded; say eye="driver" to open it anyway'
            )
    return ""


@functools.cache
def _kernels() -> Kernels:
    """What is known of kernels in this process: the code that one block has seen, the next ones know too."""
    return Kernels()


def _asker() -> Callable[[int], tuple[int, int] | None]:
    """A function that asks the driver for the block of memory that an address lies in."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return lambda _: None

    def block(address: int) -> tuple[int, int] | None:
        start, size = ctypes.c_uint64(), ctypes.c_size_t()
        code = driver.cuMemGetAddressRange_v2(ctypes.byref(start), ctypes.byref(size), ctypes.c_uint64(address))
        return None if code else (start.value, start.value + size.value)

    return block


__all__ = ["EyeShut", "Watch", "Window", "shared", "why_late"]
