"""cuda.bindings, watched: what Python code records and waits for through its modules, as interop does itself."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from interop import _cuda
from interop.event import as_event
from interop.ledger.ledger import SEEN
from interop.ledger.libraries.patch import Changes
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger

_NAMES: Final = {"hStream": "stream", "hEvent": "event"}
"""What the runtime calls the arguments of the driver."""


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* of the records and the waits; those of interop itself come to it another way."""
    eyes = _Eyes(ledger)
    for module, prefix, device in (
        ("cuda.bindings.runtime", "cuda", "cudaDeviceSynchronize"),
        ("cuda.bindings.driver", "cu", "cuCtxSynchronize"),
    ):
        if module in sys.modules:
            for name, tell in (
                (device, eyes.device_done),
                (f"{prefix}StreamSynchronize", eyes.stream_done),
                (f"{prefix}StreamQuery", eyes.stream_done),
                (f"{prefix}StreamWaitEvent", eyes.waited),
                (f"{prefix}EventRecord", eyes.recorded),
                (f"{prefix}EventRecordWithFlags", eyes.recorded),
                (f"{prefix}EventSynchronize", eyes.event_done),
                (f"{prefix}EventQuery", eyes.event_done),
            ):
                changes.tell(sys.modules[module], name, _by_name(tell), but_not_of=_cuda)


def _by_name(tell: Callable[..., None]) -> Callable[..., None]:
    """The same, for arguments by the names that they have in the driver, too."""

    def call(result: object, *args: Any, **named: Any) -> None:  # noqa: ANN401  (all that cuda.bindings takes)
        tell(result, *args, **{_NAMES.get(name, name): value for name, value in named.items()})

    return call


class _Eyes:
    """Of calls that return a status first, which is 0 if they did what they should."""

    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    def device_done(self, result: tuple[Any, ...]) -> None:
        if not result[0]:
            self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.current_context())

    def stream_done(self, result: tuple[Any, ...], stream: Any) -> None:  # noqa: ANN401  (all that cuda.bindings takes)
        if not result[0]:
            self.ledger.finished(_stream(stream))

    def event_done(self, result: tuple[Any, ...], event: Any) -> None:  # noqa: ANN401
        if not result[0]:
            self.ledger.finished(as_event(int(event)))

    def recorded(self, result: tuple[Any, ...], event: Any, stream: Any, *_flags: Any, **_named: Any) -> None:  # noqa: ANN401
        if not result[0]:
            self.ledger.recorded(_stream(stream), as_event(int(event)))

    def waited(self, result: tuple[Any, ...], stream: Any, event: Any, *_flags: Any, **_named: Any) -> None:  # noqa: ANN401
        if not result[0]:
            self.ledger.waited(_stream(stream), as_event(int(event)))


def _stream(stream: Any) -> ExternalStream:  # noqa: ANN401
    return ExternalStream(0 if stream is None else int(stream), owner=SEEN)
