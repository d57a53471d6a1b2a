"""Warp, watched: where the host waits. What its streams wait for is not."""

from typing import TYPE_CHECKING, Any

import warp

from interop import _cuda
from interop.event import as_event
from interop.ledger.libraries.patch import Changes
from interop.stream import as_stream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* of the waits of the host, by the functions of Warp's module."""
    eyes = _Eyes(ledger)
    for name, tell in (
        ("synchronize", eyes.devices_done),
        ("synchronize_device", eyes.device_done),
        ("synchronize_stream", eyes.stream_done),
        ("synchronize_event", eyes.event_done),
    ):
        if hasattr(warp, name):  # not all versions have all of them
            changes.tell(warp, name, tell)


class _Eyes:
    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    def devices_done(self, _result: None) -> None:
        for device in warp.get_cuda_devices():
            self.device_done(None, device)

    def device_done(self, _result: None, device: Any = None) -> None:  # noqa: ANN401
        device = warp.get_device(device)
        if device.is_cuda:
            self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.primary_context(device.ordinal))

    def stream_done(self, _result: None, stream_or_device: Any = None) -> None:  # noqa: ANN401
        is_stream = isinstance(stream_or_device, warp.Stream)
        self.ledger.finished(as_stream(stream_or_device if is_stream else warp.get_device(stream_or_device).stream))

    def event_done(self, _result: None, event: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_event(event))
