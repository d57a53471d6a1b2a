"""The errors of interop.

All have one root: ``except InteropError`` catches them all. Each also has a standard parent, so that code which knows
nothing of interop can catch ``ValueError``, ``TypeError`` or ``RuntimeError``.

Three errors of interop are standard ones only: ``TimeoutError`` when a timeout has passed, ``ValueError`` for a timeout
that is not a number of seconds, and ``TypeError`` for a callback or kernel that cannot be called.
"""

import sys

from interop._show.callsite import user_trace

__all__ = [
    "AdapterError",
    "CaptureError",
    "CudaError",
    "DeadlockError",
    "DeviceMismatchError",
    "InteropError",
    "InvalidArrayError",
    "InvalidDeviceError",
    "InvalidEventError",
    "InvalidStreamError",
    "InvalidTokenError",
    "LibraryNotFoundError",
    "NestingError",
    "NoDeviceError",
    "NotSupportedError",
    "ProcessDiedError",
    "ProducerUnknownError",
    "RaceError",
    "StaleStreamError",
    "UnrecordedEventError",
]


class InteropError(Exception):
    """The root of interop's errors.

    Example::

        try:
            stream = interop.as_stream("no stream")
        except interop.InteropError as error:
            print(error)  # what was given, what was expected, and what to do
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter print: without the frames of interop, unless ``%xmode --show`` asks for all."""
        formatter = sys.modules["IPython"].get_ipython().InteractiveTB
        trace = user_trace(self.__traceback__) if formatter.skip_hidden else self.__traceback__
        lines: list[str] = formatter.structured_traceback(type(self), self, trace)
        return lines


class CudaError(InteropError, RuntimeError):
    """A CUDA call failed.

    CUDA reports a failure of asynchronous work at a later call. So *call* is the function that returned the code; the
    cause may be an earlier one.

    Attributes:
        code: the number of the ``cudaError_t`` or ``CUresult``.
        name: its name, such as ``"cudaErrorInvalidResourceHandle"``.
        call: the function that returned it, such as ``"cudaEventRecord"``.
    """

    def __init__(self, code: int, name: str, call: str, text: str = "") -> None:
        """Keep the parts, by which the error can be sent to another process."""
        super().__init__(code, name, call, text)
        self.code = code
        self.name = name
        self.call = call

    def __str__(self) -> str:
        """The message, made of the parts."""
        _, _, _, text = self.args
        return f"{self.call} failed with {self.name} ({self.code})" + (f": {text}" if text else "")


class NoDeviceError(InteropError, RuntimeError):
    """There is no CUDA driver, or no device. A program that can work without a GPU catches this error."""


class InvalidDeviceError(InteropError, TypeError, ValueError):
    """The argument is not the ordinal of a device that this process sees."""


class InvalidStreamError(InteropError, TypeError, ValueError):
    """The argument is not a stream: it is another kind of object, or a handle that cannot be a stream's."""


class InvalidEventError(InteropError, TypeError, ValueError):
    """The argument is not an event: it is another kind of object, or a handle that cannot be an event's."""


class InvalidArrayError(InteropError, TypeError, ValueError):
    """The argument is not an array in memory that a GPU can use."""


class InvalidTokenError(InteropError, ValueError):
    """The token of a shared array cannot be used: it was changed, was used before, or its lease is over."""


class ProcessDiedError(InteropError, ConnectionError):
    """The process at the other end has ended: the one that shared an array, or the one that received it."""


class StaleStreamError(InteropError, RuntimeError):
    """The borrowed stream was destroyed: its memory is unmapped, or its address belongs to another stream now.

    Raised only with ``INTEROP_CHECK=1``. CUDA has no safe way to ask: it may crash on the handle of a destroyed stream.
    """


class DeviceMismatchError(InteropError, ValueError):
    """Two objects that must be on one device are on two."""


class UnrecordedEventError(InteropError, RuntimeError):
    """A stream or the host waits for an event that was never recorded. To CUDA, such an event is done: no order."""


class CaptureError(InteropError, RuntimeError):
    """The operation is not legal while one of its streams captures a CUDA graph."""


class NotSupportedError(InteropError, NotImplementedError):
    """The library, the event or the simulator cannot do what was asked. The message says what can be done instead."""


class LibraryNotFoundError(InteropError, ImportError):
    """The named library is not known to interop, or not installed."""


class NestingError(InteropError, RuntimeError):
    """A ``with`` block of :func:`interop.use` was not left in the order, or in the thread, in which it was entered."""


class AdapterError(InteropError, RuntimeError):
    """An adapter breaks the contract of :mod:`interop.adapters.base`, or two adapters claim one library."""


class ProducerUnknownError(InteropError, ValueError):
    """It is not known which stream wrote an array. Say ``producer=``."""


class DeadlockError(InteropError, RuntimeError):
    """The host waits, or would wait, for work that can never run: in the simulator, or behind a gate."""


class RaceError(InteropError, RuntimeError):
    """Two pieces of work use one array, at least one of them writes it, and nothing orders them."""
