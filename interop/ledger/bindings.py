"""cuda.bindings, watched: where Python code waits for the device through its modules, as interop does itself."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from interop import _cudart
from interop.ledger.ledger import SEEN
from interop.ledger.patch import told
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger


@contextlib.contextmanager
def watch(ledger: "Ledger") -> Iterator[None]:
    """Tell *ledger* of the waits for a device or a stream."""

    def device_done(result: tuple[Any, ...]) -> None:
        if not result[0]:
            ledger.device_is_done(_cudart.GPU, _cudart.GPU.current_context())

    def stream_done(result: tuple[Any, ...], stream: Any) -> None:  # noqa: ANN401  (all that cuda.bindings takes)
        if not result[0]:
            ledger.finished(ExternalStream(int(stream), owner=SEEN))

    with contextlib.ExitStack() as undo:
        for module, waits_for_device, waits_for_stream in (
            ("cuda.bindings.runtime", "cudaDeviceSynchronize", "cudaStreamSynchronize"),
            ("cuda.bindings.driver", "cuCtxSynchronize", "cuStreamSynchronize"),
        ):
            if module in sys.modules:
                undo.enter_context(told(sys.modules[module], waits_for_device, device_done))
                undo.enter_context(told(sys.modules[module], waits_for_stream, stream_done))
        yield
