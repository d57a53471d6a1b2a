"""What interop has to know about a library: the contract of an adapter.

An adapter is a subclass of :class:`Adapter` with a few short methods that turn the library's own streams and events
into integers, and an integer into the library's own stream. It never sees interop's own classes: only ints, the
library's objects, and a :class:`Source`.

Override what the library has. What is left alone makes interop say, clearly, that the library has no such thing.
"""

from typing import Any, NamedTuple

from interop._cuda import LEGACY, PER_THREAD, per_thread_by_default
from interop._safety.forks import lock
from interop.adapters.dlpack import CAPSULES, capsule
from interop.adapters.tensor import (
    BFLOAT16,
    COMPLEX,
    CUDA,
    FLOAT8_E4M3FN,
    FLOAT8_E4M3FNUZ,
    FLOAT8_E5M2,
    FLOAT8_E5M2FNUZ,
    FLOAT8_E8M0FNU,
    INT,
    TYPES,
    DataType,
    Tensor,
)
from interop.errors import NotSupportedError

__all__ = [
    "BFLOAT16",
    "CAPSULES",
    "COMPLEX",
    "CUDA",
    "FLOAT8_E4M3FN",
    "FLOAT8_E4M3FNUZ",
    "FLOAT8_E5M2",
    "FLOAT8_E5M2FNUZ",
    "FLOAT8_E8M0FNU",
    "INT",
    "LEGACY",
    "PER_THREAD",
    "TYPES",
    "Adapter",
    "DataType",
    "Ordered",
    "Source",
    "Takes",
    "Tensor",
    "byte_strides_to_elements",
    "capsule",
    "is_kept",
    "keep",
    "life_of",
    "lock",
    "per_thread_by_default",
]


class Source:
    """A stream that a library shall wrap, with all that a library may want to know about it.

    It speaks ``__cuda_stream__`` and holds the stream's owner: who keeps the source alive keeps the stream alive.

    Attributes:
        handle: the address of the ``cudaStream_t``, or :data:`LEGACY` or :data:`PER_THREAD`; never 0.
        device: the ordinal of its device.
        owner: the object that the stream was borrowed from, or None.
    """

    __slots__ = ("__weakref__", "device", "handle", "owner")

    def __init__(self, handle: int, device: int, owner: object) -> None:
        """Hold the parts."""
        self.handle = handle
        self.device = device
        self.owner = owner

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version 0 of the protocol, and the handle."""
        return (0, self.handle)


class Takes(NamedTuple):
    """Which arrays a library can take. What it cannot is refused before the library is asked: some abort the process.

    Attributes:
        negative_strides: arrays that run backwards in a dimension.
        zero_strides: arrays that repeat their elements in a dimension, as after a broadcast.
        overlapping: arrays whose elements lie in each other's way, such as windows that slide by one element.
        gaps: arrays with space between their elements. Without gaps and overlaps, dimensions in any order remain.
        unaligned: arrays whose address is no multiple of their elements' size; a kernel that reads one fails.
        dimensions: the fewest and the most.
        largest_stride: in bytes.
        read_only: whether its arrays can be read-only, or are never written to.
        types: those that it has; None if there is no table of them, and it is asked.
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
    """One library's streams and events, in terms of ints and the library's own objects.

    Attributes:
        library: the library's import path, such as ``"cuda.core"``; also its name in interop's calls.
        has_current_stream: whether the library has a current stream that new work goes to. If so, override
            :meth:`current_stream`, :meth:`enter` and :meth:`leave`, and, if need be, :meth:`before`.
        instead: for a library without one, what its users do instead.
        streams_stay_the_same: whether a stream object has one handle for all its life; see :meth:`life`.
        streams_close: whether a stream object can be closed, and says by ``__cuda_stream__`` whether it is.
        default_streams_have_devices: whether its default streams know their device, and do not mean the current one's.
        makes_arrays: whether the library can make an array over foreign memory. If so, override :meth:`make_array`.
        takes: which arrays it can take; see :class:`Takes`.
        needs_device: whether :meth:`make_array` has to find the memory's device current.
        needs_extension: whether it makes them by DLPack capsules only, which interop's extension in C makes.
        immutable: whether the library never writes to an array that it has made.
        orders_itself: whether its arrays order the consumer's stream themselves when they are asked, by DLPack.
        simulated: whether the library is a stand-in that runs on :mod:`interop.sim`. Streams of a simulation go to such
            libraries only, and streams of a GPU to the others only.
    """

    library: str = ""
    has_current_stream: bool = False
    instead: str = ""
    streams_stay_the_same: bool = False
    streams_close: bool = False
    default_streams_have_devices: bool = False
    makes_arrays: bool = False
    takes: Takes = Takes()
    needs_device: bool = True
    needs_extension: bool = False
    immutable: bool = False
    orders_itself: bool = False
    simulated: bool = False

    def __init_subclass__(cls) -> None:
        """Tell from the methods that the class overrides what the library has."""
        super().__init_subclass__()
        cls.has_current_stream = cls.current_stream is not Adapter.current_stream
        cls.default_streams_have_devices = cls.stream_device is not Adapter.stream_device
        cls.makes_arrays = cls.make_array is not Adapter.make_array

    def _lacks(self, method: str) -> NotSupportedError:
        """The error for what is asked of the library, and needs a method that its adapter has not overridden."""
        return NotSupportedError(
            f"interop cannot do this with {self.library}: its adapter, {type(self).__qualname__}, has no {method}()"
        )

    # -- streams in ----------------------------------------------------------------------------------------------

    def stream_handle(self, stream: object) -> int | None:  # noqa: ARG002
        """The handle of one of the library's streams, or None if *stream* is not one.

        The null handle means different streams in different libraries: return :data:`LEGACY` or :data:`PER_THREAD`,
        whichever it means in this one, and never 0.
        """
        raise self._lacks("stream_handle")

    def stream_device(self, stream: object) -> int | None:  # noqa: ARG002
        """The ordinal of the device that a *default* stream belongs to; None for the current device.

        Asked only for :data:`LEGACY` and :data:`PER_THREAD`: CUDA knows the device of every other stream.
        """
        return None

    def keeps_alive(self, stream: object) -> bool:  # noqa: ARG002
        """Whether the CUDA stream lives for as long as *stream*, the library's own object, does.

        False for an object that holds only the address of a stream that somebody else made.
        """
        return True

    def life(self, stream: object) -> object | None:
        """What lives as long as *stream*, and whose weak references are cleared at its end; None if nothing does.

        *stream* itself or, where weak references to it fail, what :func:`life_of` gives for it.
        """
        return stream

    # -- streams out ---------------------------------------------------------------------------------------------

    def make_stream(self, source: Source) -> object:  # noqa: ARG002
        """Wrap *source* as one of the library's streams, which keeps *source* alive.

        Called with the stream's context current.

        Raises:
            interop.errors.NotSupportedError: the library cannot take a foreign stream; the message says what to do.
        """
        raise self._lacks("make_stream")

    # -- events --------------------------------------------------------------------------------------------------

    def event_handle(self, event: object) -> int | None:  # noqa: ARG002
        """The handle of one of the library's events, 0 if it has none before its first record, None if no event."""
        return None

    def record(self, event: object, stream: object) -> None:  # noqa: ARG002
        """Record an event whose handle is still 0 on *stream*, both the library's own, by the library's own means."""
        raise self._lacks("record")

    # -- arrays --------------------------------------------------------------------------------------------------

    def is_array(self, array: object) -> bool:  # noqa: ARG002
        """Whether *array* is one of the library's arrays."""
        return False

    def problem(self, array: object) -> str:  # noqa: ARG002
        """Why this one of the library's arrays cannot be handed over, and what to do; empty if it can."""
        return ""

    def array_stream(self, array: object) -> object | None:  # noqa: ARG002
        """The stream that new work on *array* goes to by default, the library's own; None if nothing says."""
        return None

    def read(self, array: object) -> Tensor | None:  # noqa: ARG002
        """Where the memory of one of the library's arrays is, from the array's own attributes; None for all else.

        Not from ``__cuda_array_interface__`` or DLPack, which interop reads itself if this is None: what libraries say
        there can be wrong. The ordinal of the device may be -1, then CUDA is asked. The tensor's owner keeps the memory
        alive: *array*, or, if that can be given other memory, something that cannot.
        """
        return None

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401, ARG002
        """The *holder* that :meth:`make_array` was given for this array, or for one that it is a part of; else None."""
        return None

    def mark_of(self, array: Any) -> int:  # noqa: ANN401, ARG002
        """For a library whose arrays do not tell their holder: a number of *array* and its parts only; else 0."""
        return 0

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401, ARG002
        """Make an array of the library over foreign memory; copy nothing, and wait for nothing: the order is made.

        The array must keep *holder* alive. When the holder goes, the memory is given back.

        Args:
            tensor: the memory; its owner is no business of the library's.
            holder: has ``__cuda_array_interface__``, which states no stream, and ``__dlpack__``, which makes the stream
                that it is asked for wait for the consumer's: see :class:`Ordered`. :func:`capsule` makes a capsule.
        """
        raise self._lacks("make_array")

    # -- the current stream --------------------------------------------------------------------------------------

    def usable(self) -> bool:
        """Whether the library, as installed, can use a GPU at all. A CPU build has no stream to switch."""
        return True

    def is_set_up(self, device: int) -> bool:  # noqa: ARG002
        """Whether asking for the current stream on *device*, whose context is there, sets up nothing more there."""
        return True

    def current_stream(self) -> object:
        """The library's current stream on the current device, for the calling thread."""
        raise self._lacks("current_stream")

    def before(self, stream: object) -> object:  # noqa: ARG002
        """What :meth:`leave` needs to put back what is current now, before :meth:`enter` of *stream*. Changes nothing.

        The device of *stream* is current. By default this is the current stream.
        """
        return self.current_stream()

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """Make *stream*, the library's own, current on its device, which is current.

        The library's own ``with stream:`` blocks, entered and left meanwhile, must come back to *stream*. A signal
        handler may raise in the middle: :meth:`leave` comes all the same.

        Args:
            stream: what :meth:`make_stream` returned, or a stream of the library's own.
            before: what :meth:`before` has just returned for it.
        """
        raise self._lacks("enter")

    def leave(self, before: object) -> None:  # noqa: ARG002
        """Put back exactly what was current when :meth:`before` returned *before*.

        It must be possible to do this twice, also when :meth:`enter` was interrupted or has not been called: so set
        what was, and do not count.
        """
        raise self._lacks("leave")


class Ordered:
    """Memory by DLPack, for a library that asks for its current stream to be ordered, which need not be the consumer.

    Nothing is left to be ordered.
    """

    def __init__(self, holder: Any) -> None:  # noqa: ANN401
        """Hold the holder that :meth:`Adapter.make_array` was given."""
        self._memory = holder

    def __dlpack__(self, *, stream: int | None = None, **how: Any) -> object:  # noqa: ANN401
        """The same, whatever stream is asked for."""
        return self._memory.__dlpack__(stream=-1, **how)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        """The same."""
        return self._memory.__dlpack_device__()


def byte_strides_to_elements(strides: tuple[int, ...], shape: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """Strides in elements of *size* bytes; None if they are those of a C-contiguous array.

    Raises:
        ValueError: a stride that counts is no multiple of the size.
    """
    expected, is_contiguous = size, True
    for stride, count in zip(reversed(strides), reversed(shape), strict=True):
        if count != 1:
            if stride != expected:
                if stride % size and count > 1:
                    message = f"a stride of {stride} bytes is no multiple of {size}"
                    raise ValueError(message)
                is_contiguous = False
            expected *= count
    return None if is_contiguous or 0 in shape else tuple(stride // size for stride in strides)


def keep(native: object, source: object) -> object:
    """Tie the life of *source* to *native*, for a library whose objects take attributes but no owner."""
    native._interop_source = source  # type: ignore[attr-defined]  # noqa: SLF001  (an attribute of our own)
    return native


def is_kept(native: object) -> bool:
    """Whether something was tied to *native* by :func:`keep`."""
    return hasattr(native, "_interop_source")


class _Life:
    """Comes and goes with the object that has it as an attribute."""


def life_of(native: object) -> object | None:
    """An attribute of *native* to which weak references can be had, where those to itself fail; None if it takes none.

    The same each time.
    """
    attributes = getattr(native, "__dict__", None)
    return None if attributes is None else attributes.setdefault("_interop_life", _Life())
