"""How interop calls CUDA: every result is checked, and the context and the capture mode are restored.

The status codes that mean "no driver" or "no device" become :class:`~interop.errors.NoDeviceError`, all others
:class:`~interop.errors.CudaError`. No result goes unchecked.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from itertools import starmap
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from interop._cuda.codes import INITIALIZATION_ERROR, NOT_READY, checked, no_device
from interop._native import Pool, native
from interop._safety import forks
from interop.errors import CudaError, InteropError

if TYPE_CHECKING:
    import weakref

T = TypeVar("T")

HOT_CALLS: Final = (
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventDestroy",
    "cuStreamWaitEvent",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamIsCapturing",
    "cuThreadExchangeStreamCaptureMode",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamGetCtx",
    "cuCtxGetId",
    "cuEventCreate",
)
"""The driver functions that the extension in C calls itself, in the order in which it takes their addresses."""
_CUDA_12: Final = 12000
"""The version of CUDA whose behaviour is asked of them."""


class Calls:
    """The functions of the runtime and the driver, called with their results checked.

    Args:
        load: returns the runtime and driver modules, those of ``cuda.bindings`` or of the simulator. Called at the
            first use.
        readable: tells, without a CUDA call, whether an address can be that of a stream.
        simulation: the simulated GPU behind the modules; None if the GPU is real.
        extension: the extension in C, which then makes the most frequent calls itself; None to make all in Python.

    Attributes:
        primary: the primary context of each device that was asked about.
        devices: the device of each context that was asked about, by the context's id, which is never reused.
        peers: whether the first device can use memory of the second, for each pair that was asked about.
        uses_extension: whether the extension makes the most frequent calls.
        was_forked: whether CUDA was started in a process from which this one was forked.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        readable: Callable[[int], bool],
        simulation: Any = None,  # noqa: ANN401
        *,
        extension: ModuleType | None = None,
    ) -> None:
        self.load = load
        self.readable = readable
        self.simulation = simulation
        self.primary: dict[int, int] = {}
        self.devices: dict[int, int] = {}
        self.peers: dict[tuple[int, int], bool] = {}
        self.uses_extension = False
        self.was_forked = False
        self._extension = extension
        self._runtime: Any = None
        self._driver: Any = None
        self._pools: dict[int, Pool] = {}
        self._retired: deque[tuple[int, weakref.ref[Any]]] = deque()
        self._modes = threading.local()
        if simulation is None:
            forks.in_child(self, Calls._after_fork)

    def start(self) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Load the modules, make sure that there is a device, and return the runtime module.

        Raises:
            NoDeviceError: there is no driver or no device.
        """
        runtime, driver = self.load()
        code, count = runtime.cudaGetDeviceCount()
        if code or not count:
            raise no_device(code, runtime)
        if self._extension is not None:
            addresses = tuple(_entry_point(call, runtime) for call in HOT_CALLS)
            if all(addresses):  # an old driver may lack one; then Python makes all calls
                self._extension.bind(addresses, self, self._pools)
                self.uses_extension = True
        self._driver = driver
        self._runtime = runtime
        return runtime

    def _after_fork(self) -> None:
        """Make every later call in this child fail at once, if the parent had started CUDA: the driver would hang."""
        if self._runtime is None:
            return
        self.was_forked = True
        self.uses_extension = False
        self._runtime = self._driver = _Forked()
        if native is not None:
            native.watch(True)  # noqa: FBT003  (so that C calls the methods in Python, which raise the error)

    def discard(self, destroy: Callable[[int], None], handle: int) -> None:
        """Destroy a stream or event without references. Raise no CUDA error: the caller is a finaliser.

        A forked child destroys nothing: it has no CUDA, and what it inherited belongs to its parent. After a fault on
        the device, or the end of a context, CUDA has destroyed everything already.
        """
        if not self.was_forked:
            with contextlib.suppress(InteropError):
                destroy(handle)

    def runtime(self) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """The runtime module, for its enums and constants."""
        return self._runtime or self.start()

    def call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Call a function of the runtime, and return the first value beside its status code."""
        runtime = self._runtime or self.start()
        return checked(getattr(runtime, name)(*arguments), name, runtime)

    def drive(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Call a function of the driver, and return the first value beside its status code."""
        runtime = self._runtime or self.start()
        return checked(getattr(self._driver, name)(*arguments), name, runtime)

    def within(self, context: int, function: Callable[..., T], *arguments: object) -> T:
        """Call *function* while *context* is current, then restore the previous context, even if there was none.

        If *context* is 0, *function* is called in whatever context is current. The previous context is restored
        wherever a signal handler raises.
        """
        # cudaSetDevice cannot restore it: setting a device creates its context if there was none. And a context manager
        # in Python can be interrupted before the first step of its exit, so everything is in one function.
        if not context:
            return function(*arguments)
        runtime = self._runtime or self.start()
        bind = self._driver.cuCtxSetCurrent
        before = int(self.drive("cuCtxGetCurrent"))
        try:
            result = bind(context)
            if result[0]:
                self.primary.clear()  # the device may have been reset, and its primary context replaced
                checked(result, "cuCtxSetCurrent", runtime)
            return function(*arguments)
        finally:
            try:
                result = bind(before)
            except BaseException:
                bind(before)  # the simulator's is Python, which can be interrupted too
                raise
            checked(result, "cuCtxSetCurrent", runtime)

    def relaxed(self, function: Callable[..., T], *arguments: object) -> T:
        """Call *function* while this thread is in the relaxed capture mode, then restore the previous mode.

        In the modes "global" and "thread local", CUDA forbids every query, every synchronisation and much else, whether
        related to the capture or not, and invalidates the capture if one is made. In the relaxed mode, it forbids only
        those that are related to the capture.
        """
        runtime = self._runtime or self.start()
        name, modes = "cudaThreadExchangeStreamCaptureMode", runtime.cudaStreamCaptureMode
        exchange = getattr(runtime, name)
        # A signal handler may raise before the call returns the previous mode: then the last known one is restored.
        last = getattr(self._modes, "before", modes.cudaStreamCaptureModeGlobal)
        answers: list[Any] = []
        try:
            checked(noted(answers, exchange, modes.cudaStreamCaptureModeRelaxed), name, runtime)
            return function(*arguments)
        finally:
            if not answers or not answers[0][0]:
                mode = answers[0][1] if answers else last
                try:
                    result = exchange(mode)
                except BaseException:
                    exchange(mode)
                    raise
                self._modes.before = mode
                checked(result, name, runtime)

    def failed(self, call: str, code: int) -> None:
        """Raise the error for a code that the driver has returned to the extension, for the function *call*."""
        runtime = self._runtime
        checked((runtime.cudaError_t(code),), call, runtime)

    def _ask(self, call: str, handle: int) -> bool:
        """Query or synchronise a stream or event, without breaking the capture of some *other* stream.

        Returns:
            False for "still running".
        """
        runtime = self._runtime or self.start()
        result = self.relaxed(getattr(runtime, call), handle)
        if result[0] == NOT_READY:
            return False
        checked(result, call, runtime)
        return True

    def _create(self, context: int, destroy: Callable[[int], None], name: str, *arguments: object) -> int:
        """Create a stream or event in *context*; if a signal handler raises meanwhile, *destroy* it again."""
        made: list[Any] = []
        try:
            runtime = self._runtime or self.start()
            return int(checked(self.within(context, noted, made, getattr(runtime, name), *arguments), name, runtime))
        except BaseException:
            for code, handle in made:
                if not code:
                    self.discard(destroy, int(handle))
            raise


def noted(results: list[T], function: Callable[..., T], *arguments: object) -> T:
    """Call *function*, and append what it returns to *results*, in one step of C if *function* is written in C.

    A signal handler that raises then does so before both or after both, and *results* says which.
    """
    results.extend(starmap(function, (arguments,)))
    return results[-1]


class _Forked:
    """Takes the place of cuda.bindings in a process that was forked from one that had started CUDA."""

    def __getattr__(self, call: str) -> NoReturn:
        text = "CUDA was started before this process was forked, and does not work in it: start workers with 'spawn'"
        raise CudaError(INITIALIZATION_ERROR, "cudaErrorInitializationError", call, text)


def _entry_point(call: str, runtime: Any) -> int:  # noqa: ANN401  (cuda.bindings has no types)
    """The address of a function of the driver; 0 if the driver lacks it, or does not tell."""
    code, address, *_ = runtime.cudaGetDriverEntryPointByVersion(call.encode(), _CUDA_12, 0)
    return 0 if code else int(address or 0)
