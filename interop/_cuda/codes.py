"""The numbers that CUDA defines, the check of every status code, and the environment variables that change a stream."""

import os
from collections.abc import Sequence
from typing import Any, Final

from interop._native import switch
from interop.errors import CudaError, NoDeviceError

LEGACY: Final = 1
"""cudaStreamLegacy: the default stream that waits for all blocking streams of its context, and they for it."""
PER_THREAD: Final = 2
"""cudaStreamPerThread: another stream in every thread."""
DEFAULT_NAMES: Final = {LEGACY: "legacy default", PER_THREAD: "per-thread default"}
"""The names of the default streams in messages, by their handles."""

NON_BLOCKING: Final = 1  # cudaStreamNonBlocking
EVENT_BLOCKING_SYNC: Final = 1  # cudaEventBlockingSync
EVENT_DISABLE_TIMING: Final = 2  # cudaEventDisableTiming
EVENT_INTERPROCESS: Final = 4  # cudaEventInterprocess
EVENT_EXTERNAL: Final = 1  # cudaEventRecordExternal and cudaEventWaitExternal
IPC_HANDLE_BYTES: Final = 64  # CUDA_IPC_HANDLE_SIZE

INVALID_VALUE: Final = 1  # cudaErrorInvalidValue
INITIALIZATION_ERROR: Final = 3  # cudaErrorInitializationError
INVALID_RESOURCE_HANDLE: Final = 400  # cudaErrorInvalidResourceHandle
NOT_READY: Final = 600  # cudaErrorNotReady: not a failure, but the answer "still running"
PEER_ACCESS_ALREADY_ENABLED: Final = 704  # cudaErrorPeerAccessAlreadyEnabled
CAPTURE_ISOLATION: Final = 905  # cudaErrorStreamCaptureIsolation: a stream that captures waits for uncaptured work
CAPTURE_IMPLICIT: Final = 906  # cudaErrorStreamCaptureImplicit: the legacy stream would become part of a capture
CAPTURE_CODES: Final = range(900, 909)
"""cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread."""
NO_DEVICE_CODES: Final = frozenset({34, 35, 46, 100, 802, 803, 804})
"""The codes of cudaErrorStubLibrary, InsufficientDriver, DevicesUnavailable, NoDevice, SystemNotReady,
SystemDriverMismatch and CompatNotSupportedOnDevice."""

BROKEN: Final = -1
"""Stands in place of a capture's id: CUDA has invalidated the capture, which can only be ended."""

WAY_OUT: Final = "To work without a GPU, use the simulator: `with interop.sim.simulate() as gpu:`."
"""The last sentence of every NoDeviceError."""

CHECK: Final = bool(switch("INTEROP_CHECK", on="check the stream before every operation", off="leave that out"))
"""Whether every operation first makes sure that its stream is still the one that was borrowed.

The checks are made in Python, so the extension in C is not used then.
"""


def null_handle() -> int:
    """The handle, :data:`LEGACY` or :data:`PER_THREAD`, of the default stream that 0 means to cuda.bindings."""
    # cuda.bindings reads the variable in the same way, and cannot be imported if the value is not a number.
    per_thread = int(os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "0"))
    return PER_THREAD if per_thread else LEGACY


def checked(result: Sequence[Any], call: str, runtime: Any) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
    """The first value beside the status code in what a CUDA call has returned. Every CUDA call is checked here.

    Args:
        result: what the call has returned: the code, then the values.
        call: the name of the function, for the message.
        runtime: the runtime module, which knows the texts of errors.

    Raises:
        NoDeviceError: the code means that there is no driver or no device.
        CudaError: the code means any other failure.
    """
    code = result[0]
    if not code:
        return result[1] if len(result) > 1 else None
    if code in NO_DEVICE_CODES:
        raise no_device(code, runtime)
    text = error_text(code, runtime)
    raise CudaError(int(code), code.name, call, text)


def error_text(code: Any, runtime: Any) -> str:  # noqa: ANN401  (cuda.bindings has no types)
    """CUDA's text for a status code of the runtime or of the driver, whose numbers mean the same."""
    try:
        return str(runtime.cudaGetErrorString(runtime.cudaError_t(int(code)))[1].decode())
    except ValueError:
        return ""


def no_device(code: Any, runtime: Any) -> NoDeviceError:  # noqa: ANN401  (cuda.bindings has no types)
    """Make the error for a machine, or a process, without a usable GPU."""
    # Without a driver, CUDA says that the driver is too old, and gives 0 as its version.
    has_driver = any(runtime.cudaDriverGetVersion())
    text = error_text(code, runtime) if has_driver else "there is no NVIDIA driver here"
    cause = f"{code.name} ({int(code)}): {text}" if code else "the driver lists no device"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if visible is None else f" CUDA_VISIBLE_DEVICES is set to {visible!r}."
    return NoDeviceError(f"no CUDA device can be used here: {cause}.{hint} {WAY_OUT}")
