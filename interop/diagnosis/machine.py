"""The machine and this process: driver, runtime, GPUs, environment variables."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop import _cuda, _native
from interop._cuda.codes import checked
from interop.diagnosis.attempt import attempt
from interop.diagnosis.traps import MPS
from interop.errors import InteropError

VARIABLES: Final = (
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM",
    "CUDA_VISIBLE_DEVICES",
    "CUDF_PER_THREAD_STREAM",
    "CUPY_CUDA_ARRAY_INTERFACE_SYNC",
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM",
    "INTEROP_CHECK",
    "INTEROP_NATIVE",
    "NUMBA_CUDA_ARRAY_INTERFACE_SYNC",
    "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM",
)
"""The environment variables that change what streams do; and all that begin with ``CUDA_MPS_``."""

IN_USE: Final = "in use"

_DRIVER: Final = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device.

    Attributes:
        ordinal: its number in this process.
        name: its product name.
        memory: in bytes.
        compute_capability: such as ``"9.0"``.
        has_context: whether this process has used it already.
    """

    ordinal: int
    name: str
    memory: int | None
    compute_capability: str | None
    has_context: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, as this process sees it.

    Attributes:
        interop: the version of interop.
        extension: ``"in use"``, or why interop's extension in C is not in use.
        python: the version of Python.
        bindings: the version of the package cuda-bindings; None if it is not installed.
        bindings_failure: why cuda.bindings cannot be used; empty if it can.
        driver: the version of the kernel driver; None if there is none, or if its version cannot be read.
        driver_cuda: the latest CUDA that the driver runs, such as ``"13.0"``; None without a driver.
        runtime_cuda: the CUDA version of the runtime in cuda-bindings.
        gpus: the devices that this process sees.
        current_device: the ordinal of the calling thread's current device.
        simulated: whether a simulation runs. Then everything here is about the simulation.
        forked: whether this process was forked from one that had started CUDA.
        problem: why no GPU can be used; empty if one can be used.
        variables: the variables of :data:`VARIABLES` that are set.
    """

    interop: str
    extension: str
    python: str
    bindings: str | None
    bindings_failure: str
    driver: str | None
    driver_cuda: str | None
    runtime_cuda: str | None
    gpus: tuple[Gpu, ...]
    current_device: int | None
    simulated: bool
    forked: bool
    problem: str
    variables: dict[str, str]


def look(version: str, bindings: str | None) -> Machine:
    """Look at the machine. Creates no context. Initialises the driver, which counting devices needs.

    Args:
        version: interop's.
        bindings: the version of cuda-bindings; None if it is not installed.
    """
    cuda = _cuda.active()
    nothing: tuple[tuple[Gpu, ...], int | None, str] = (), None, ""
    (gpus, current, problem), bindings_failure = attempt(lambda: _devices(cuda), nothing)
    if bindings_failure:
        problem = f"cuda.bindings cannot be used: {bindings_failure}"
    # This fails in a forked process, and without cuda.bindings.
    (driver, runtime), _ = attempt(lambda: _versions(_cuda.GPU), (0, 0))
    return Machine(
        interop=version,
        extension=IN_USE if _native.native else f"not in use: {_native.why_not}",
        python=platform.python_version(),
        bindings=bindings,
        bindings_failure=bindings_failure,
        driver=attempt(_kernel_driver, None)[0],
        driver_cuda=_dotted(driver),
        runtime_cuda=_dotted(runtime),
        gpus=gpus,
        current_device=current,
        simulated=cuda.simulation is not None,
        forked=cuda.was_forked,
        problem=problem,
        variables={name: os.environ[name] for name in (*VARIABLES, *_of_mps()) if name in os.environ},
    )


def _of_mps() -> list[str]:
    return sorted(name for name in os.environ if name.startswith(MPS))


def _devices(cuda: _cuda.Cuda) -> tuple[tuple[Gpu, ...], int | None, str]:
    """The devices, the ordinal of the current one, and why no device can be used."""
    if cuda.was_forked:
        return (), None, "CUDA was started before this process was forked, and does not work in it"
    try:
        return tuple(_gpu(cuda, ordinal) for ordinal in range(cuda.device_count())), cuda.current_device(), ""
    except InteropError as error:
        return (), None, str(error).partition(_cuda.WAY_OUT)[0].strip()


def _gpu(cuda: _cuda.Cuda, ordinal: int) -> Gpu:
    if cuda.simulation is not None:
        return Gpu(ordinal, "SIMULATED", None, None, has_context=True)
    name, memory, (major, minor) = _device_facts(cuda, ordinal)
    return Gpu(ordinal, name, memory, f"{major}.{minor}", has_context(cuda, ordinal))


def _versions(cuda: _cuda.Cuda) -> tuple[int, int]:
    """The versions of CUDA that the driver and the runtime are for, as 1000 * major + 10 * minor; 0: no driver."""
    runtime, _ = cuda.load()
    driver_version = checked(runtime.cudaDriverGetVersion(), "cudaDriverGetVersion", runtime)
    return int(driver_version), int(checked(runtime.cudaRuntimeGetVersion(), "cudaRuntimeGetVersion", runtime))


def has_context(cuda: _cuda.Cuda, device: int) -> bool:
    """Whether the primary context of *device* has been created already. Does not create it."""
    runtime, driver = cuda.load()
    result = driver.cuDevicePrimaryCtxGetState(device)
    checked(result, "cuDevicePrimaryCtxGetState", runtime)
    return bool(result[2])


def _device_facts(cuda: _cuda.Cuda, device: int) -> tuple[str, int, tuple[int, int]]:
    """The name of *device*, its memory in bytes, and its compute capability. Creates no context."""
    # The driver is asked, since the documentation does not say that cudaGetDeviceProperties creates no context.
    name = cuda.drive("cuDeviceGetName", 256, device)
    memory = cuda.drive("cuDeviceTotalMem", device)
    attribute = cuda.load()[1].CUdevice_attribute
    major, minor = (
        int(cuda.drive("cuDeviceGetAttribute", which, device))
        for which in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return name.split(b"\0")[0].decode(), int(memory), (major, minor)


def _kernel_driver() -> str | None:
    found = re.search(r"\d+\.\d[\d.]*", _DRIVER.read_text()) if _DRIVER.exists() else None
    return found[0] if found else None


def _dotted(version: int) -> str | None:
    return f"{version // 1000}.{version % 1000 // 10}" if version else None
