"""What CUDA can be asked about a stream without danger: for notebooks, and for ``interop.doctor()``.

CUDA crashes on a stream that is gone, and many questions invalidate a capture. So CUDA is asked only about streams that
something keeps alive, and the first question is whether the stream captures.
"""

from dataclasses import dataclass, replace

from interop import _cuda
from interop._core import captures
from interop._core.above import Stream
from interop._core.borrowing import is_kept_alive
from interop._core.created import CreatedStream
from interop.errors import CaptureError, InteropError


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is known of a stream. None stands for what CUDA was not asked.

    Attributes:
        address: the handle; 1 for the legacy default stream, 2 for the per-thread one.
        library: import path of the library that it was borrowed from; ``"interop"`` if interop created it.
        device: ordinal of its device.
        id: CUDA's number of the stream, which is never used again.
        blocking: whether it and the legacy default stream wait for each other.
        priority: the lower the number, the sooner its work is taken up.
        capturing: whether a graph is captured on it.
        not_asked: why CUDA was not asked, or not about everything.
        given_name: the name that the stream was given; else empty.
    """

    address: int
    library: str | None
    device: int | None = None
    id: int | None = None
    blocking: bool | None = None
    priority: int | None = None
    capturing: bool | None = None
    not_asked: str = ""
    given_name: str = ""

    @property
    def name(self) -> str:
        """The name with the address, the address alone, or which default stream it is."""
        name = self.given_name or _cuda.DEFAULT_NAMES.get(self.address)
        address = f"{self.address:#x}" if self.address > _cuda.PER_THREAD else f"{self.address}"
        return f"{name} ({address})" if name else address

    def rows(self) -> dict[str, object]:
        """The facts by their names, in words."""
        rows = {
            "library": self.library or "not known",
            "device": self.device,
            "address": self.name,
            "id": self.id,
            "priority": self.priority,
            "kind": {None: None, True: "blocking", False: "non-blocking"}[self.blocking],
            "capturing": {None: None, True: "yes", False: "no"}[self.capturing],
            "remark": self.not_asked or None,
        }
        return {name: value for name, value in rows.items() if value is not None}

    def __str__(self) -> str:
        """The facts in one line."""
        rows = self.rows()
        parts = [self.name]
        parts += [f"{name} {rows[name]}" for name in ("device", "id", "priority") if name in rows]
        parts += [str(rows["kind"])] if "kind" in rows else []
        parts += ["capturing"] if self.capturing else []
        parts += [self.not_asked] if self.not_asked else []
        return ", ".join(parts)


def look_at(stream: Stream) -> StreamFacts:
    """Ask CUDA about *stream*. Creates no context, invalidates no capture, and raises no InteropError."""
    cuda: _cuda.Cuda = stream._cuda
    made_here = "interop" if isinstance(stream.owner, CreatedStream) else None
    library = stream._adapter.library if stream._adapter else made_here
    facts = StreamFacts(stream._handle, library, stream._device, given_name=stream.name)
    if cuda.was_forked:
        return replace(facts, not_asked="not asked: CUDA does not work in a process that was forked")
    if not is_kept_alive(stream):
        return replace(facts, not_asked="not asked: nothing keeps it alive, and CUDA crashes on a stream that is gone")
    if stream._handle <= _cuda.PER_THREAD and not stream._context:
        return replace(facts, not_asked="not asked: there was no device when it was borrowed")
    try:
        # With the stream's context current: if none were, the runtime would create one.
        return cuda.within(stream._usable_context(), _ask, stream, facts)
    except InteropError as error:
        return replace(facts, not_asked=f"not asked: {type(error).__name__}: {error}")


def _ask(stream: Stream, facts: StreamFacts) -> StreamFacts:
    facts = replace(facts, device=stream.device)
    try:
        capturing = bool(captures.capture_of(stream))
    except CaptureError:
        if stream._handle == _cuda.LEGACY:
            raise  # a blocking stream captures, and every call about the legacy stream would invalidate its capture
        capturing = True  # the capture was invalidated, and has not ended yet
    facts = replace(facts, capturing=capturing, priority=stream.priority)
    if capturing:
        return facts
    is_default = stream._handle <= _cuda.PER_THREAD
    # The default streams are not asked for their flags.
    blocking = None if is_default else stream._cuda.stream_blocks(stream._handle)
    return replace(facts, id=stream.stream_id, blocking=blocking)
