"""CuPy: a current stream a thread and device, kept on a stack by ``with`` and beside it by ``use()``."""

import operator
from itertools import starmap
from typing import Any, cast

import cupy

from interop.adapters.base import LEGACY, Adapter, Ordered, Source

# The base of cupy.cuda.Stream and of the deprecated cupy.cuda.ExternalStream.
_STREAM_TYPES = (cupy.cuda.Stream, cupy.cuda.ExternalStream)


class CupyAdapter(Adapter):
    """cupy.cuda.Stream, cupy.cuda.ExternalStream and cupy.cuda.Event."""

    library = "cupy"
    has_current_stream = True
    streams_stay_the_same = True
    makes_arrays = True
    takes_dlpack = True
    has_layout = True

    def stream_handle(self, stream: object) -> int | None:
        """Stream.null is 0 and always the legacy stream: CUPY_CUDA_PER_THREAD_DEFAULT_STREAM only picks the default."""
        return int(stream.ptr) or LEGACY if isinstance(stream, _STREAM_TYPES) else None

    def keeps_alive(self, stream: object) -> bool:
        """Not the deprecated ExternalStream."""
        return isinstance(stream, cupy.cuda.Stream)

    def make_stream(self, source: Source) -> object:
        """``from_external`` neither warns nor destroys the stream, and keeps *source* alive."""
        if source.handle == LEGACY:
            return cupy.cuda.Stream.null
        stream = cupy.cuda.Stream.from_external(source)
        # -1, which from_external leaves, is "whichever device is current" to CuPy: a stream has one device.
        stream.device_id = source.device
        return stream

    def event_handle(self, event: object) -> int | None:
        """CuPy events are created when they are made."""
        return int(event.ptr) if isinstance(event, cupy.cuda.Event) else None

    def is_array(self, array: object) -> bool:
        """Any cupy.ndarray."""
        return isinstance(array, cupy.ndarray)

    def array_stream(self, array: object) -> object | None:
        """CuPy's current stream on the array's device."""
        return cupy.cuda.get_current_stream(array.device.id)  # type: ignore[attr-defined, no-any-return]

    def make_array(self, memory: Any) -> object:  # noqa: ANN401
        """CuPy waits only for a stream that is stated."""
        if hasattr(memory, "__cuda_array_interface__"):
            return cupy.asarray(memory)
        return cupy.from_dlpack(Ordered(memory))

    # Nothing else can be assigned to. Not a method: it is asked for with every hand-over.
    layout = operator.attrgetter("shape")  # type: ignore[assignment]

    def usable(self) -> bool:
        """Asked of CUDA by CuPy itself."""
        return bool(cupy.cuda.is_available())

    def current_stream(self) -> object:
        """Of the calling thread, on the current device."""
        return cupy.cuda.get_current_stream()

    def before(self, stream: object) -> object:
        """The current stream, which ``use()`` may have set beside the stack."""
        return _Entry(stream, cupy.cuda.get_current_stream())

    def enter(self, stream: Any, before: object) -> None:  # noqa: ANN401
        """Push, so that a ``with`` inside comes back to *stream*."""
        # In one step of C, also the note that it was done: no signal handler can come in between.
        cast("_Entry", before).pushed.extend(starmap(stream.__enter__, ((),)))

    def leave(self, before: object) -> None:
        """Pop, if it was pushed; and where ``use()`` had set a stream that is not on the stack, set it again."""
        entry: Any = before
        if entry.pushed and not entry.popped:
            entry.popped.extend(starmap(entry.stream.__exit__, ((None, None, None),)))
        if cupy.cuda.get_current_stream() is not entry.previous:
            entry.previous.use()


class _Entry:
    """One block: its stream, the one before it, and whether it was pushed and popped."""

    __slots__ = ("popped", "previous", "pushed", "stream")

    def __init__(self, stream: object, previous: object) -> None:
        self.stream = stream
        self.previous = previous
        self.pushed: list[object] = []
        self.popped: list[object] = []


ADAPTER = CupyAdapter()
