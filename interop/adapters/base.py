"""What interop has to know about a library: the contract of an adapter.

An adapter is a subclass of :class:`Adapter` with a few short methods that turn the library's own streams and events
into integers, and an integer into the library's own stream. It never sees interop's own classes: only ints, the
library's objects, and a :class:`Source`.

Override what the library has. What is left alone makes interop say, clearly, that the library has no such thing.
"""

from typing import Any, Final

from interop import _cudart
from interop.errors import NotSupportedError

LEGACY: Final = _cudart.LEGACY
"""The handle of the legacy default stream."""
PER_THREAD: Final = _cudart.PER_THREAD
"""The handle of the calling thread's per-thread default stream."""


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


class Adapter:
    """One library's streams and events, in terms of ints and the library's own objects.

    Attributes:
        library: the library's import path, such as ``"cuda.core"``; also its name in interop's calls.
        has_current_stream: whether the library has a current stream that new work goes to. If so, override
            :meth:`current_stream`, :meth:`enter` and :meth:`leave`, and, if need be, :meth:`before`.
        instead: for a library without one, what its users do instead.
        streams_stay_the_same: whether a stream object has one handle for all its life; see :meth:`life`.
        streams_close: whether a stream object can be closed, and says by ``__cuda_stream__`` whether it is.
        makes_arrays: whether the library can make an array over foreign memory. If so, override :meth:`make_array`.
        default_streams_have_devices: whether its default streams know their device, and do not mean the current one's.
        says_read_only: whether such an array can be read-only.
        takes_array_interface: whether it makes them by ``__cuda_array_interface__``.
        takes_dlpack: whether it makes them by DLPack, where the array interface will not do.
        no_arrays: if not, why, and what to do; appended to a message.
        immutable: whether the library never writes to an array that it has made.
        has_layout: whether :meth:`layout` tells, for the arrays that it has and makes, whether they were changed; they
            must allow weak references.
        arrays_change: whether an array can be given another shape or memory in place; else :meth:`layout` is not asked.
        orders_itself: whether its arrays order the consumer's stream themselves when they are asked, by DLPack.
        simulated: whether the library is a stand-in that runs on :mod:`interop.sim`. Streams of a simulation go to such
            libraries only, and streams of a GPU to the others only.
    """

    library: str = ""
    has_current_stream: bool = False
    instead: str = ""
    streams_stay_the_same: bool = False
    streams_close: bool = False
    makes_arrays: bool = False
    default_streams_have_devices: bool = False
    says_read_only: bool = False
    takes_array_interface: bool = True
    takes_dlpack: bool = False
    no_arrays: str = ""
    immutable: bool = False
    has_layout: bool = False
    arrays_change: bool = True
    orders_itself: bool = False
    simulated: bool = False

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

    def stream_mark(self, array: object) -> object:
        """Equal for as long as :meth:`array_stream` would be the same stream; to be compared, and fast."""
        return self.array_stream(array)

    def keeper(self, array: Any) -> object:  # noqa: ANN401
        """What keeps the memory of *array* alive, even if the array is given other memory; *array*, if it cannot be."""
        return array

    def make_array(self, memory: Any) -> object:  # noqa: ANN401, ARG002
        """Make an array of the library over *memory*, which it keeps alive; copy nothing, and wait for nothing.

        Args:
            memory: an object with ``__cuda_array_interface__``, which states no stream: the order is made already. If
                the library :attr:`takes_dlpack`, it may be without that for some types, and has ``__dlpack__``, which
                orders the stream that is asked for after the consumer's; see :class:`Ordered`.
        """
        raise self._lacks("make_array")

    def layout(self, array: object) -> object:  # noqa: ARG002
        """What of an array can be changed in place (address, shape, strides, type), to be compared: fast, without CUDA.

        What is returned is kept, and must keep nothing of the array alive.
        """
        raise self._lacks("layout")

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

    def __init__(self, memory: Any) -> None:  # noqa: ANN401
        """Hold what :meth:`Adapter.make_array` was given."""
        self._memory = memory

    def __dlpack__(self, *, stream: int | None = None, **how: Any) -> object:  # noqa: ANN401
        """The same, whatever stream is asked for."""
        return self._memory.__dlpack__(stream=-1, **how)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        """The same."""
        return self._memory.__dlpack_device__()


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
