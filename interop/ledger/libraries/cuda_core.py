"""cuda.core: the host's waits for a whole device. Its streams and events are compiled, and cannot be observed."""

import contextlib
from typing import Any

from cuda.core import Device

from interop.ledger.ledger import Ledger
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches


def observe(ledger: Ledger, patches: Patches) -> None:
    """Tell *ledger* of ``Device.sync``."""
    observer = Observer(ledger)

    def device_done(_result: None, device: Any) -> None:
        observer.device_done(device.device_id)

    with contextlib.suppress(TypeError):  # in some versions the class is compiled too
        patches.observe(Device, "sync", device_done)
