"""Which stream an ``ExternalStream`` is: what can be told without CUDA."""

import threading
from typing import Final, NoReturn

from interop import _cuda
from interop._core import names
from interop._cuda import Cuda
from interop._cuda.addresses import is_a
from interop._native import StreamFields
from interop.adapters.base import Adapter


class _ThreadToken(threading.local):
    """An object for the calling thread that no later thread gets; the identifiers of threads are reused."""

    def __init__(self) -> None:
        self.token = object()


thread: Final = _ThreadToken()


class StreamIdentity(StreamFields):
    """The handle of a stream, and what tells it from other streams. The base class of ``ExternalStream``."""

    __slots__ = ()

    _adapter: Adapter | None
    _cuda: Cuda

    @property
    def cuda_stream(self) -> int:
        """The address of the ``cudaStream_t``, or 1 or 2 for the default streams; never 0.

        Example::

            import ctypes

            address = ctypes.c_void_p(producer.cuda_stream)  # for a function of C; producer must live on
        """
        return self._handle

    @property
    def ptr(self) -> int:
        """The same as :attr:`cuda_stream`, under CuPy's name."""
        return self._handle

    @property
    def name(self) -> str:
        """The name that the stream was given, by :func:`new_stream` or :func:`as_stream`; else an empty string.

        Example::

            assert interop.as_stream(producer, name="uploads").name == producer.name == "uploads"

        Reprs, errors and reports show it. A name belongs to the stream: another object that is borrowed from the same
        stream has it too, for as long as the owner lives whose stream was named. A simulated stream has the name that
        ``gpu.stream`` gave it. Calls no CUDA.
        """
        return names.name_of(self)

    def __int__(self) -> int:
        """The same as :attr:`cuda_stream`, for calls that take the address as an int: ``int(stream)``.

        An int keeps nothing alive: keep this object for as long as the address is used. There is no ``__index__``: with
        it, a stream would pass for a list index, or for a size, as in ``torch.empty(stream)``.
        """
        return self._handle

    @property
    def _as_parameter_(self) -> object:
        """The address as a ``c_void_p``, for functions that are called by ctypes; it keeps nothing alive."""
        import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

        return ctypes.c_void_p(self._handle)

    def __cuda_stream__(self) -> tuple[int, int]:
        """The stream, for every library that uses the protocol: version 0, and the handle."""
        return (0, self._handle)

    def __eq__(self, other: object) -> bool:
        """Whether both are one stream. For default streams, the context and the thread count too."""
        if not is_a(other, StreamIdentity):
            return NotImplemented
        return (
            self._handle == other._handle
            and self._needs == other._needs
            and self._thread is other._thread
            and self._cuda is other._cuda
        )

    def __hash__(self) -> int:
        """Of all that is compared: default streams of two devices, or threads, have two hashes."""
        return hash((self._handle, self._needs, id(self._thread), id(self._cuda)))

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a handle means nothing to another process."""
        message = "an ExternalStream cannot be copied or pickled: it is the stream of this process; borrow it again"
        raise TypeError(message)

    def __repr__(self) -> str:
        """The name or the address, the library, the device, and the priority if that is known and not 0.

        Calls no CUDA: reprs are made in finalisers and in messages about streams that are gone, and CUDA crashes on
        those. What is not known yet is left out, and so is whether the stream captures, which can change at any time.
        """
        origin = f" of {self._adapter.library}" if self._adapter else ""
        device = "" if self._device is None else f" on device {self._device}"
        priority = f", priority {self._priority}" if self._priority else ""
        return f"<{self._class_name} {names.shown(self)}{origin}{device}{priority}>"

    @property
    def _class_name(self) -> str:
        return f"{'SIMULATED ' if self._cuda.simulation else ''}interop.{type(self).__name__}"

    @property
    def _needs(self) -> int:
        """The context that must be current for a CUDA call about this stream; 0 if any may be."""
        return self._context if self._handle <= _cuda.PER_THREAD else 0

    @property
    def _is_of_another_thread(self) -> bool:
        """Whether this is the per-thread default stream of another thread than the calling one."""
        return self._thread is not None and self._thread is not thread.token
