"""The holder of memory that was handed over: what the consumer's array keeps alive, and by what it learns of it."""

import bisect
import itertools
import weakref
from typing import TYPE_CHECKING, Any, Final

from interop import _cudart
from interop._handles import described
from interop._held import held
from interop._memory import CUDA_HOST
from interop._native import native, why_not
from interop.adapters.base import Adapter
from interop.errors import InteropError, InvalidStreamError, NotSupportedError
from interop.stream import ExternalStream, new_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from interop._tensor import Tensor
    from interop.event import Event

_NO_ORDER = -1
"""DLPack's word, in place of a stream, for: order nothing."""


class Handover:
    """The same memory, for the consumer's library: what the consumer's array keeps alive.

    Returned as it is by :func:`handoff` where no library is asked for: a correct producer for every library that
    reads the CUDA Array Interface or DLPack, known to interop or not. ``__cuda_array_interface__`` states the stream
    that the memory is ready on, and ``__dlpack__(stream=s)`` makes the stream *s* wait for that one, on the device.
    """

    def __init__(
        self,
        tensor: "Tensor",
        producer: ExternalStream | None,
        consumer: ExternalStream,
        *,
        states: bool,
        parent: "End | None" = None,
    ) -> None:
        """Hold *tensor*, and through it the source.

        Args:
            tensor: the memory.
            producer: the stream that wrote it; None if the source has ordered the consumer itself, or if nothing keeps
                that stream alive.
            consumer: the stream that it is handed to, and that waits for the producer already.
            states: whether the interface states *consumer*; not for a library that would wait for it once more.
            parent: the end of the hand-over that the source itself came of, if it did.
        """
        self._tensor = tensor
        self._producer = producer
        self._consumer = consumer
        self._states = states
        self._relay: ExternalStream | None = None
        self._end = End(producer, consumer, tensor, parent)
        # Not __del__: in a cycle of garbage, that may run after the finalisers of the very streams that it needs. What
        # a weakref.finalize is given is outside of all cycles, and so whole. (Hence the one way to a leak: an array
        # that is stored in an attribute of its own source.)
        finalizer = weakref.finalize(self, self._end.come)
        finalizer.atexit = False  # a process that ends frees nothing that is still in use

    def when_gone(self, forget: "Callable[[], object]") -> None:
        """Call *forget* when this holder goes, before the memory is let go of."""
        self._end.forgets.append(forget)

    def give_back(self, done: "Event", ordered: "Container[ExternalStream]") -> None:
        """If the producer is among the *ordered*, that is all; *done* stands for what the consumer has done."""
        if self._producer is None or self._producer in ordered:
            self._end.done = done

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3 of the CUDA Array Interface; there is none for types that it has no name for, such as bfloat16.

        https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
        """
        from interop._tensor import typestr_of  # noqa: PLC0415  (ctypes is slow to import)

        tensor = self._tensor
        typestr = typestr_of(tensor.dtype)
        if typestr is None:
            message = f"the array interface has no name for numbers of type {tensor.dtype}; __dlpack__ has"
            raise AttributeError(message)
        size = tensor.dtype.bits // 8
        return {
            "version": 3,
            "shape": tensor.shape,
            "typestr": typestr,
            "data": (tensor.address, tensor.read_only),
            "strides": None if tensor.strides is None else tuple(size * stride for stride in tensor.strides),
            "stream": self._stated() if self._states else None,
        }

    def _stated(self) -> int:
        """The handle of a stream that the memory is ready on, whichever thread or device reads the number."""
        consumer = self._consumer
        if consumer.cuda_stream > _cudart.PER_THREAD or consumer.device == self._tensor.device_id:
            consumer._ready()  # in another thread, 2 is another stream
            return consumer.cuda_stream
        # A default stream of another device: read beside the memory, the number would mean that of the memory's device.
        if self._relay is None:
            self._relay = new_stream(self._tensor.device_id)
        self._relay.wait_stream(consumer)
        return self._relay.cuda_stream

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type of the memory (2 is CUDA, 3 pinned, 13 managed), and the ordinal of the device."""
        return (self._tensor.device_type, self._tensor.device_id)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule; a stream that is named waits for this memory's first, on the device.

        When the consumer's array goes, and with it this holder, the memory is ordered after the stream that it was
        handed to; not after the one that is named here, which is the consumer's: let it wait for that one at its end.

        https://dmlc.github.io/dlpack/latest/python_spec.html

        Args:
            stream: the handle of the stream that will use the memory; None for the legacy default stream, like 1; 2
                for the calling thread's per-thread one; -1 to order nothing.
            max_version: the newest version of DLPack that is understood. Without, or before 1.0, read-only memory
                cannot be given away.
            dl_device: the device that the memory is wanted on, if not where it is.
            copy: nothing is ever copied.

        Raises:
            BufferError: what is asked for needs a copy, or cannot say that the memory is read-only.
            InvalidStreamError: *stream* is 0, which DLPack forbids, or no handle.
            NotSupportedError: interop was installed without its extension in C.
        """
        tensor = self._tensor
        if copy or dl_device not in (None, self.__dlpack_device__()):
            message = (
                f"{self!r} gives away its memory where it is, and no copy; {copy=} and {dl_device=} were asked for"
            )
            raise BufferError(message)
        versioned = max_version is not None and max_version[0] >= 1
        if tensor.read_only and not versioned:
            message = f"{self!r} is read-only, which DLPack can say since version 1.0, and {max_version=} was asked for"
            raise BufferError(message)
        if native is None:
            message = f"to give arrays away by DLPack, interop needs its extension in C, which is missing: {why_not}"
            raise NotSupportedError(message)
        self._order(stream)
        strides = _c_contiguous(tensor.shape) if tensor.strides is None else tensor.strides
        return native.dlpack_capsule(
            self,
            versioned,
            tensor.read_only,
            tensor.address,
            tensor.shape,
            strides,
            tuple(tensor.dtype),
            self.__dlpack_device__(),
        )

    def _order(self, stream: object) -> None:
        """Make the stream that a DLPack consumer names wait."""
        if stream == _NO_ORDER and not isinstance(stream, bool):
            return
        if stream is None:
            stream = _cudart.LEGACY
        if not isinstance(stream, int) or isinstance(stream, bool) or stream <= 0:
            message = (
                "a consumer names its stream to DLPack by its handle, None or 1 for the legacy default stream, 2 for "
                f"the per-thread one, -1 for no order, and never 0; got {described(stream)}"
            )
            raise InvalidStreamError(message)
        # A default stream is one of the memory's device; where that is pinned, and so no device's, of the current one.
        of_memory = stream <= _cudart.PER_THREAD and self._tensor.device_type != CUDA_HOST
        device = self._tensor.device_id if of_memory else None
        ExternalStream(stream, device).wait_stream(self._consumer)

    def __repr__(self) -> str:
        """Shape, type, and the streams."""
        tensor = self._tensor
        return f"<interop.Handover of {tensor.shape} {tensor.dtype}, {self._producer!r} -> {self._consumer!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: the same, as a table."""
        from interop import _html  # noqa: PLC0415  (only in notebooks)

        tensor = self._tensor
        rows = {
            "shape": tensor.shape,
            "type": tensor.dtype,
            "address": f"{tensor.address:#x}{', read-only' if tensor.read_only else ''}",
            "producer": "has ordered the consumer itself, or is not kept" if self._producer is None else self._producer,
            "consumer": self._consumer,
        }
        return _html.table("interop.Handover", rows)


class End:
    """What there is to do when a holder goes."""

    def __init__(
        self, producer: ExternalStream | None, consumer: ExternalStream, tensor: "Tensor", parent: "End | None"
    ) -> None:
        self.forgets: list[Callable[[], object]] = []
        self.done: Event | None = None
        self.consumer = consumer
        self._producer = producer
        self._tensor = tensor
        self._parent = parent
        self._owner: Tensor = tensor if parent is None else parent._owner
        self._is_over = False
        self._place = live.add(self)

    @property
    def extent(self) -> tuple[int, int]:
        """Where the memory lies."""
        return self._tensor.extent()

    def come(self) -> None:
        self._is_over = True
        memory = self._memory()
        self._parent = None  # or hand-overs of one array that overlap would keep all that were before them
        try:
            for forget in self.forgets:
                forget()
        finally:
            try:
                held.give_back(self._producer, self.consumer, self._tensor, self.done, memory=memory)
            finally:
                live.remove(self._place)
                del self._place  # they keep each other, and this keeps the source

    def _memory(self) -> object:
        """What has to be kept until the consumer is done, once the producer's stream waits for it.

        If the array came of a hand-over itself, that is what its memory is from, and not the array: its own end, which
        makes its producer wait, has to come when nobody uses it any more, and not only when the device is done.
        """
        start, stop = self.extent
        if start == stop:
            return _NOTHING
        # It is over only if the array does not keep it alive: then another one was handed over that lies there too.
        return self._tensor if self._parent is None or self._parent._is_over else self._owner


_NOTHING: Final = object()


class _Live:
    """The ends that have not come yet, by where their memory lies.

    Finalisers come here from any thread, and in the middle of any call: so there is no lock, and each step is one that
    no other thread and no finaliser gets into.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int, End]] = []
        self._numbers = itertools.count()
        self._sizes: set[int] = set()
        """The numbers of bits of all lengths that there have been."""

    def add(self, end: End) -> tuple[int, int, int, End]:
        start, stop = end.extent
        entry = (start, next(self._numbers), stop, end)
        self._sizes.add((stop - start).bit_length())
        bisect.insort(self._entries, entry)
        return entry

    def remove(self, entry: tuple[int, int, int, End]) -> None:
        self._entries.remove(entry)

    def at(self, address: int, writer: ExternalStream | None) -> End | None:
        """The end of a hand-over to *writer* of the memory at *address*; failing that, to any stream; or None."""
        found = None
        entries = self._entries[:]
        longest = 1 << max(self._sizes, default=0)
        for start, _, stop, end in reversed(entries[: bisect.bisect_left(entries, (address + 1,))]):
            if start + longest <= address:
                break
            if address < stop:
                if end.consumer == writer:
                    return end
                found = found or end
        return found


live: Final = _Live()


def _c_contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return tuple(reversed(strides))


def converted(holder: Handover, adapter: Adapter) -> Any:  # noqa: ANN401
    """The array of the adapter's library over what *holder* holds.

    Raises:
        NotSupportedError: the library refuses.
    """
    tensor, cuda = holder._tensor, holder._consumer._cuda
    try:
        with cuda.context(cuda.primary_context(tensor.device_id)):
            return adapter.make_array(holder)
    except Exception as error:
        if isinstance(error, InteropError):
            raise
        message = f"{adapter.library} takes no array of {tensor.shape} {tensor.dtype}: {type(error).__name__}: {error}"
        raise NotSupportedError(message) from error
