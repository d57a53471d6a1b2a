"""The contract of an adapter, which tells interop what it must know about a library.

An adapter is a subclass of :class:`Adapter`. Its methods turn the library's own streams and events into integers, an
integer into the library's own stream, and arrays into a :class:`.Tensor` and back. An adapter never sees interop's
streams and events.

Override the methods for what the library has. For a method that is not overridden, interop raises an error which says
that the library has no such thing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from interop._cuda import LEGACY, PER_THREAD, active, null_handle
from interop._safety.forks import lock
from interop.adapters.dlpack import CAPSULES, capsule, exchanges, make_tensor, read_tensor
from interop.adapters.tensor import CUDA, DataType, Tensor
from interop.errors import AdapterError, NotSupportedError

__all__ = [
    "CAPSULES",
    "LEGACY",
    "PER_THREAD",
    "Adapter",
    "Ordered",
    "Source",
    "Takes",
    "capsule",
    "current_device",
    "exchanges",
    "in_same_context",
    "is_kept",
    "keep",
    "life_of",
    "lock",
    "make_tensor",
    "null_handle",
    "read_tensor",
    "strided",
]


class Source:
    """A stream for a library to wrap, with what the library may need to know about it.

    It has ``__cuda_stream__``, and holds the owner of the stream: while the source lives, the stream lives.

    Attributes:
        handle: the address of the ``cudaStream_t``, or :data:`LEGACY` or :data:`PER_THREAD`; never 0.
        device: the ordinal of its device.
        owner: the object that the stream was borrowed from, or None.
    """

    __slots__ = ("__weakref__", "device", "handle", "owner")

    def __init__(self, handle: int, device: int, owner: object) -> None:
        """Hold the three values."""
        self.handle = handle
        self.device = device
        self.owner = owner

    def __cuda_stream__(self) -> tuple[int, int]:
        """The version of the protocol, 0, and the handle."""
        return (0, self.handle)


class Takes(NamedTuple):
    """Which arrays a library can take.

    interop refuses all others before it calls the library, because some libraries abort the process.

    Attributes:
        negative_strides: arrays that run backwards in a dimension.
        zero_strides: arrays that repeat their elements in a dimension, for example after a broadcast.
        overlapping: arrays whose elements overlap, such as windows that slide by one element.
        gaps: arrays with space between their elements. If False, the dimensions can still be in any order.
        unaligned: arrays whose address is not a multiple of the size of an element. A kernel that reads one fails.
        dimensions: the smallest and the largest number of dimensions.
        largest_stride: in bytes.
        read_only: read-only arrays, because the library's arrays can be read-only or are never written to.
        types: the types of elements; None if the adapter has no table of them, and the library decides.
    """

    negative_strides: bool = True
    zero_strides: bool = True
    overlapping: bool = True
    gaps: bool = True
    unaligned: bool = False
    dimensions: tuple[int, int] = (0, 64)
    largest_stride: int = 2**63
    read_only: bool = False
    types: frozenset[DataType] | None = None


class Adapter:
    """The streams, events and arrays of one library, as ints, tensors and the library's own objects.

    Attributes:
        library: the import path of the library, such as ``"cuda.core"``, by which calls of interop name it.
        instead: for a library without a current stream, what its users do instead.
        streams_stay_the_same: whether a stream object has one handle for its whole life; see :meth:`life`.
        streams_close: whether a stream object can be closed. Its ``__cuda_stream__`` then tells whether it is.
        takes: which arrays the library can take; see :class:`Takes`.
        needs_device: whether the device of the memory must be current when :meth:`make_array` is called.
        needs_extension: whether :meth:`make_array` works with DLPack capsules only, which need the extension in C.
        immutable: whether the library never writes to an array that it has made.
        orders_itself: whether ``__dlpack__`` of the library's arrays orders the consumer's stream.
        simulated: whether the library is a stand-in that runs on :mod:`interop.sim`. Streams of a simulation go only to
            such libraries, and streams of a GPU only to the others. None for both: its streams are mere addresses.
        has_current_stream: set by interop: whether :meth:`current_stream` is overridden. If it is, override
            :meth:`enter` and :meth:`leave` too.
        default_streams_have_devices: set by interop: whether :meth:`stream_device` is overridden.
        makes_arrays: set by interop: whether :meth:`make_array` is overridden.
    """

    library: str = ""
    instead: str = ""
    streams_stay_the_same: bool = False
    streams_close: bool = False
    takes: Takes = Takes()
    needs_device: bool = True
    needs_extension: bool = False
    immutable: bool = False
    orders_itself: bool = False
    simulated: bool | None = False
    has_current_stream: bool = False
    default_streams_have_devices: bool = False
    makes_arrays: bool = False

    def __init_subclass__(cls) -> None:
        """Find out from the overridden methods what the library has."""
        super().__init_subclass__()
        cls.has_current_stream = cls.current_stream is not Adapter.current_stream
        cls.default_streams_have_devices = cls.stream_device is not Adapter.stream_device
        cls.makes_arrays = cls.make_array is not Adapter.make_array

    def _lacks(self, method: str) -> NotSupportedError:
        """Make the error for a call that needs a method which the adapter has not overridden."""
        return NotSupportedError(
            f"interop cannot do this with {self.library}: its adapter, {type(self).__qualname__}, has no {method}()"
        )

    # -- streams in ----------------------------------------------------------------------------------------------

    def stream_handle(self, stream: object) -> int | None:  # noqa: ARG002
        """The handle of *stream*, or None if *stream* is not one of the library's streams.

        Never return 0: the null handle means different streams in different libraries. Return :data:`LEGACY` or
        :data:`PER_THREAD` instead, whichever the null handle means in this library.
        """
        raise self._lacks("stream_handle")

    def stream_device(self, stream: object) -> int | None:  # noqa: ARG002
        """The ordinal of the device of a *default* stream; None for the current device.

        interop calls this only for :data:`LEGACY` and :data:`PER_THREAD`: CUDA knows the device of any other stream.
        """
        return None

    def keeps_alive(self, stream: object) -> bool:  # noqa: ARG002
        """Whether the CUDA stream lives as long as *stream*, the library's own object.

        False for an object that holds only the address of a stream which other code has created.
        """
        return True

    def life(self, stream: object) -> object | None:
        """An object that lives as long as *stream* and allows weak references; None if there is none.

        By default *stream* itself. If weak references to *stream* do not work, return ``life_of(stream)``.
        """
        return stream

    # -- streams out ---------------------------------------------------------------------------------------------

    def make_stream(self, source: Source) -> object:  # noqa: ARG002
        """Make a stream of the library for *source*. The stream must keep *source* alive.

        The context of the stream is current. If the new stream cannot hold *source*, keep the two side by side, and let
        go of them when this method is called again and nobody else has the new stream.

        Raises:
            interop.errors.NotSupportedError: the library cannot take a foreign stream. Say in the message what to do.
        """
        raise self._lacks("make_stream")

    # -- events --------------------------------------------------------------------------------------------------

    def event_handle(self, event: object) -> int | None:  # noqa: ARG002
        """The handle of *event*; 0 if the library creates it at the first record; None if it is not an event."""
        return None

    def record(self, event: object, stream: object) -> None:  # noqa: ARG002
        """Record *event*, whose handle is still 0, on *stream*. Both are objects of the library."""
        raise self._lacks("record")

    # -- arrays --------------------------------------------------------------------------------------------------

    def is_array(self, array: object) -> bool:  # noqa: ARG002
        """Whether *array* is one of the library's arrays."""
        return False

    def problem(self, array: object) -> str:  # noqa: ARG002
        """Why *array* cannot be handed over, and what to do; an empty string if it can."""
        return ""

    def array_stream(self, array: object) -> object | None:  # noqa: ARG002
        """The library's stream that new work on *array* goes to by default; None if that is not known."""
        return None

    def read(self, array: object) -> Tensor | None:  # noqa: ARG002
        """Describe the memory of *array* from the array's own attributes; None if they do not tell.

        Do not use ``__cuda_array_interface__`` or DLPack, because what libraries state there can be wrong; interop
        reads those itself if this is None. If the ordinal of the device is -1, interop asks CUDA for it. The owner of
        the tensor keeps the memory alive: *array*, or another object if *array* can be given other memory.
        """
        return None

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401, ARG002
        """The *holder* from which :meth:`make_array` made *array*, or an array of which it is a part; else None."""
        return None

    def mark_of(self, array: Any) -> int:  # noqa: ANN401, ARG002
        """A number that only *array* and its parts have, if the library's arrays do not tell their holder; else 0."""
        return 0

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401, ARG002
        """Make an array of the library over foreign memory, without a copy and without waiting.

        interop has ordered the streams already. The array must keep *holder* alive: when *holder* is destroyed, the
        memory returns to its owner.

        Args:
            tensor: the memory. The library must not hold its owner.
            holder: has ``__cuda_array_interface__``, which states no stream, and ``__dlpack__``, which makes the stream
                that it is given wait for the consumer's stream; to avoid that wait, pass ``Ordered(holder)``.
                :func:`capsule` makes a capsule without a call of ``__dlpack__``.
        """
        raise self._lacks("make_array")

    # -- the current stream --------------------------------------------------------------------------------------

    def usable(self) -> bool:
        """Whether the library, as installed, can use a GPU. A CPU build has no current stream."""
        return True

    def is_set_up(self, device: int) -> bool:  # noqa: ARG002
        """Whether :meth:`current_stream` on *device*, whose context exists, would initialise nothing more."""
        return True

    def current_stream(self) -> object:
        """The library's current stream for the calling thread on the current device."""
        raise self._lacks("current_stream")

    def current_handle(self, device: int | None) -> int:
        """The handle of :meth:`current_stream` on *device*, by default the current one; never 0.

        Override this if the library can tell the handle without an object for the stream.
        """
        if device is not None:
            cuda = active()
            return cuda.within(cuda.primary_context(device), self.current_handle, None)
        handle = self.stream_handle(self.current_stream())
        if not handle:
            message = f"the adapter for {self.library!r} gave {handle!r} for the library's current stream"
            raise AdapterError(message)
        return handle

    def before(self, stream: object) -> object:  # noqa: ARG002
        """What :meth:`leave` needs to restore the present state, before :meth:`enter` of *stream*. Changes nothing.

        By default, the current stream. The device of *stream* is current.
        """
        return self.current_stream()

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """Make *stream*, an object of the library, current on its device. That device is current.

        After a ``with`` block of the library inside, *stream* must be current again. A signal handler may raise at any
        point of this method; interop then calls :meth:`leave` all the same.

        Args:
            stream: what :meth:`make_stream` has returned, or a stream that the library has created.
            before: what :meth:`before` has just returned.
        """
        raise self._lacks("enter")

    def leave(self, before: object) -> None:  # noqa: ARG002
        """Restore exactly what was current when :meth:`before` returned *before*.

        A second call must do no harm, nor a call after an interrupted :meth:`enter` or without one. So set the previous
        state; do not count.
        """
        raise self._lacks("leave")


class Ordered:
    """A holder whose ``__dlpack__`` orders nothing.

    For a library that passes its current stream to ``__dlpack__``: that stream need not be the consumer, which interop
    has ordered already.
    """

    def __init__(self, holder: Any) -> None:  # noqa: ANN401
        """Wrap the holder that was given to :meth:`Adapter.make_array`."""
        self._memory = holder

    def __dlpack__(self, *, stream: int | None = None, **how: Any) -> object:  # noqa: ANN401
        """Make a capsule, whatever *stream* is."""
        return self._memory.__dlpack__(stream=-1, **how)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        """The device of the memory."""
        return self._memory.__dlpack_device__()


def strided(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DataType, device: int, owner: object
) -> Tensor | None:
    """Describe an array whose *strides* are in bytes; None if one is no multiple of the size of an element."""
    size = expected = dtype.bits // 8
    is_contiguous = True
    for stride, count in zip(reversed(strides), reversed(shape), strict=True):
        if count != 1:
            if stride != expected:
                if stride % size and count > 1:
                    return None
                is_contiguous = False
            expected *= count
    steps = None if is_contiguous or 0 in shape else tuple(stride // size for stride in strides)
    return Tensor(address, shape, steps, dtype, CUDA, device, False, owner)  # noqa: FBT003


def current_device() -> int:
    """The ordinal of the current device."""
    return active().current_device()


def in_same_context(function: Callable[..., object], *arguments: object) -> object:
    """Call *function* of a library that may make another context current. Then the current one is current again."""
    cuda = active()
    return cuda.within(cuda.bound_context(), function, *arguments)


def keep(native: object, source: object) -> object:
    """Keep *source* alive as long as *native*, for a library whose objects take attributes but no owner."""
    native._interop_source = source  # type: ignore[attr-defined]  # noqa: SLF001  (an attribute of our own)
    return native


def is_kept(native: object) -> bool:
    """Whether :func:`keep` has been called for *native*."""
    return hasattr(native, "_interop_source")


class _Life:
    """Lives as long as the object that has it as an attribute."""


def life_of(native: object) -> object | None:
    """An object that lives as long as *native* and allows weak references; None if *native* takes no attributes.

    For objects to which weak references do not work. The same object each time.
    """
    attributes = getattr(native, "__dict__", None)
    return None if attributes is None else attributes.setdefault("_interop_life", _Life())
