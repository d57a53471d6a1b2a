"""The errors of interop.

One root, :class:`InteropError`, so that ``except InteropError`` catches them all; and a second, standard parent
each, so that code which knows nothing of interop can still catch ``ValueError``, ``TypeError`` or ``RuntimeError``.
Only a time that is up is the standard ``TimeoutError``, a timeout that is no time a plain ``ValueError``, and
a callback that is none a plain ``TypeError``.
"""


class InteropError(Exception):
    """The root of interop's errors."""


class CudaError(InteropError, RuntimeError):
    """A CUDA call failed.

    CUDA reports the failures of earlier, asynchronous work at whatever call comes next, so *call* names the call
    that returned the code, which need not be the one that caused it.

    Attributes:
        code: the number of the ``cudaError_t`` or ``CUresult``.
        name: its name, such as ``"cudaErrorInvalidResourceHandle"``.
        call: the function that returned it, such as ``"cudaEventRecord"``.
    """

    def __init__(self, code: int, name: str, call: str, text: str = "") -> None:
        """Keep the three parts, and say them in one sentence."""
        super().__init__(f"{call} failed with {name} ({code})" + (f": {text}" if text else ""))
        self.code = code
        self.name = name
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the parts, for errors that cross process boundaries."""
        return (_rebuild_cuda_error, (type(self), self.code, self.name, self.call, str(self)))


def _rebuild_cuda_error(cls: type[CudaError], code: int, name: str, call: str, message: str) -> CudaError:
    error = cls(code, name, call)
    error.args = (message,)
    return error


class NoDeviceError(InteropError, RuntimeError):
    """There is no CUDA driver, or no device at all: the error on which a program may go on without a GPU."""


class InvalidDeviceError(InteropError, TypeError, ValueError):
    """What was given is not a device: no ordinal, or not one of those that this process sees."""


class InvalidStreamError(InteropError, TypeError, ValueError):
    """What was given is not a stream: not the right kind of object, or a handle that cannot be one."""


class InvalidEventError(InteropError, TypeError, ValueError):
    """What was given is not an event: not the right kind of object, or a handle that cannot be one."""


class InvalidArrayError(InteropError, TypeError, ValueError):
    """What was given is no array in memory that a GPU can use."""


class StaleStreamError(InteropError, RuntimeError):
    """The stream that was borrowed is gone: its memory is unmapped, or its address belongs to another stream now.

    Raised only with ``INTEROP_CHECK=1``: CUDA itself cannot be asked without risking a crash.
    """


class DeviceMismatchError(InteropError, ValueError):
    """Two things that must be on one device are on two."""


class UnrecordedEventError(InteropError, RuntimeError):
    """Something waits for an event that was never recorded. CUDA would take that as done and order nothing."""


class CaptureError(InteropError, RuntimeError):
    """The operation is not legal while a CUDA graph is captured on one of its streams."""


class NotSupportedError(InteropError, NotImplementedError):
    """The library, the event or the simulator cannot do what was asked. The message says what can be done instead."""


class LibraryNotFoundError(InteropError, ImportError):
    """A library was named that interop does not know or that is not installed."""


class NestingError(InteropError, RuntimeError):
    """A ``with`` block of :func:`interop.use` is left in another order, or another thread, than it was entered."""


class AdapterError(InteropError, RuntimeError):
    """An adapter breaks the contract of :mod:`interop.adapters.base`, or two adapters claim one library."""


class ProducerUnknownError(InteropError, ValueError):
    """Nothing says which stream produced an array."""


class DeadlockError(InteropError, RuntimeError):
    """The host waits, or would have to, for work that can never run: in the simulator, or behind a gate."""


class RaceError(InteropError, RuntimeError):
    """Two pieces of work touch one array, at least one writes it, and nothing orders them."""
