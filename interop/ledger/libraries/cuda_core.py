"""cuda.core, watched where it can be: its waits for a whole device. Its streams and events are compiled."""

import contextlib
from typing import TYPE_CHECKING, Any

from cuda.core import Device

from interop import _cuda
from interop.ledger.libraries.patch import Changes

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* of them."""

    def device_done(_result: None, device: Any) -> None:  # noqa: ANN401
        ledger.device_is_done(_cuda.GPU, _cuda.GPU.primary_context(device.device_id))

    with contextlib.suppress(TypeError):  # of a version in which this class is compiled, too
        changes.tell(Device, "sync", device_done)
