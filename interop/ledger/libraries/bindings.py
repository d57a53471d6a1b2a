"""cuda.bindings: the records and waits that Python code makes through its modules. Interop's own are told elsewhere."""

import sys
from collections.abc import Callable
from typing import Any, Final

from interop import _cuda
from interop.event import Event, as_event
from interop.ledger.ledger import Ledger
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import SEEN
from interop.stream import ExternalStream

_NAMES: Final = {"hStream": "stream", "hEvent": "event"}
"""The runtime's names of the driver's arguments."""


def observe(ledger: Ledger, patches: Patches) -> None:
    """Tell *ledger* of the records and the waits."""
    observer = _Observer(ledger)
    for module, prefix, device in (
        ("cuda.bindings.runtime", "cuda", "cudaDeviceSynchronize"),
        ("cuda.bindings.driver", "cu", "cuCtxSynchronize"),
    ):
        if module in sys.modules:
            for name, callback in (
                (device, observer.current_device_done),
                (f"{prefix}StreamSynchronize", observer.stream_done),
                (f"{prefix}StreamQuery", observer.stream_done),
                (f"{prefix}StreamWaitEvent", observer.stream_waited),
                (f"{prefix}EventRecord", observer.event_recorded),
                (f"{prefix}EventRecordWithFlags", observer.event_recorded),
                (f"{prefix}EventSynchronize", observer.event_done),
                (f"{prefix}EventQuery", observer.event_done),
            ):
                patches.observe(sys.modules[module], name, _if_successful(callback), except_from=_cuda.__name__)


def _if_successful(callback: Callable[..., None]) -> Callable[..., None]:
    """*callback*, called if the status is 0, and with the arguments by the runtime's names."""

    def call(result: tuple[Any, ...], *args: Any, **named: Any) -> None:
        if not result[0]:
            callback(result, *args, **{_NAMES.get(name, name): value for name, value in named.items()})

    return call


class _Observer(Observer):
    def stream_of(self, stream: Any, event: Any) -> ExternalStream:
        del event
        return ExternalStream(0 if stream is None else int(stream), owner=SEEN)

    def event_of(self, event: Any) -> Event:
        return as_event(int(event))
