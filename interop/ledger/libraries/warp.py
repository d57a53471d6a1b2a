"""Warp: where the host waits. What its streams wait for cannot be observed."""

from typing import Any

import warp

from interop.ledger.ledger import Ledger
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches


def observe(ledger: Ledger, patches: Patches) -> None:
    """Tell *ledger* of the host's waits, which are functions of Warp's module."""
    observer = _Observer(ledger)
    for name, callback in (
        ("synchronize", observer.all_devices_done),
        ("synchronize_device", observer.device_synchronized),
        ("synchronize_stream", observer.stream_synchronized),
        ("synchronize_event", observer.event_done),
    ):
        if hasattr(warp, name):  # not every version has all of them
            patches.observe(warp, name, callback)


class _Observer(Observer):
    def all_devices_done(self, _result: None) -> None:
        for device in warp.get_cuda_devices():
            self.device_synchronized(None, device)

    def device_synchronized(self, _result: None, device: Any = None) -> None:
        device = warp.get_device(device)
        if device.is_cuda:
            self.device_done(device.ordinal)

    def stream_synchronized(self, _result: None, stream_or_device: Any = None) -> None:
        is_stream = isinstance(stream_or_device, warp.Stream)
        self.stream_done(None, stream_or_device if is_stream else warp.get_device(stream_or_device).stream)
