"""What can be told about a stream without danger: for notebooks, and for ``interop.doctor()``.

CUDA crashes on a stream that is gone, and breaks a capture that it is asked the wrong question about. So it is asked
only about streams that something keeps alive, and first of all whether they capture.
"""

from dataclasses import dataclass, replace

from interop import _cuda
from interop.errors import CaptureError, InteropError
from interop.event import is_binding
from interop.stream import ExternalStream, _Handle


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is known of a stream. None where it was not asked.

    Attributes:
        address: the handle; 1 for the legacy default stream, 2 for the per-thread one.
        library: import path of the library that it was borrowed from, or ``"interop"`` if interop made it.
        device: ordinal of its device.
        id: CUDA's own number of the stream, never used twice.
        blocking: whether it waits for the legacy default stream, and holds it up.
        priority: the lower, the sooner.
        capturing: whether a graph is captured on it.
        not_asked: why CUDA was not asked, or not about everything.
    """

    address: int
    library: str | None
    device: int | None = None
    id: int | None = None
    blocking: bool | None = None
    priority: int | None = None
    capturing: bool | None = None
    not_asked: str = ""

    @property
    def name(self) -> str:
        """The address, or which default stream it is."""
        default = _cuda.DEFAULT_NAMES.get(self.address)
        return f"{default} ({self.address})" if default else f"{self.address:#x}"

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


def look_at(stream: ExternalStream) -> StreamFacts:
    """Ask CUDA what is safe to ask about *stream*. Creates no context, breaks no capture, raises no error of ours."""
    cuda = stream._cuda
    made_here = "interop" if isinstance(stream.owner, _Handle) else None
    library = stream._adapter.library if stream._adapter else made_here
    facts = StreamFacts(stream.cuda_stream, library, stream._device)
    if cuda.was_forked:
        return replace(facts, not_asked="not asked: CUDA does not work in a process that was forked")
    if not is_kept_alive(stream):
        return replace(facts, not_asked="not asked: nothing keeps it alive, and CUDA crashes on a stream that is gone")
    if stream.cuda_stream <= _cuda.PER_THREAD and not stream._context:
        return replace(facts, not_asked="not asked: there was no device when it was borrowed")
    try:
        # A context that is there becomes current: where none is, the runtime would create one.
        return cuda.within(stream._ready(), _asked, stream, facts)
    except InteropError as error:
        return replace(facts, not_asked=f"not asked: {type(error).__name__}: {error}")


def is_kept_alive(stream: ExternalStream) -> bool:
    """Whether the CUDA stream lives for as long as the object: the default streams, and those with such an owner."""
    if stream.cuda_stream <= _cuda.PER_THREAD:
        return True
    if stream.owner is None or is_binding(stream.owner, "cudaStream_t", "CUstream"):
        return False
    return stream._adapter is None or stream._adapter.keeps_alive(stream.owner)


def _asked(stream: ExternalStream, facts: StreamFacts) -> StreamFacts:
    facts = replace(facts, device=stream.device)
    try:
        capturing = bool(stream._capture())
    except CaptureError:
        if stream.cuda_stream == _cuda.LEGACY:
            raise  # a blocking stream captures, and would notice
        capturing = True  # broken, and not ended yet
    facts = replace(facts, capturing=capturing, priority=stream.priority)
    if capturing:
        return facts
    is_default = stream.cuda_stream <= _cuda.PER_THREAD
    # Of the default streams, the per-thread one waits for the legacy one too, and is not asked for its flags.
    blocking = None if is_default else stream._cuda.stream_blocks(stream.cuda_stream)
    return replace(facts, id=stream.stream_id, blocking=blocking)
