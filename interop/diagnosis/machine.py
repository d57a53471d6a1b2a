"""The machine, and this process on it: driver, runtime, GPUs, the variables that matter."""

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop import _cudart, _native
from interop.errors import CudaError, NoDeviceError

VARIABLES: Final = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM",
    "CUDA_VISIBLE_DEVICES",
    "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM",
    "INTEROP_CHECK",
    "INTEROP_NATIVE",
    "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM",
)
"""The environment variables that change what streams do."""

IN_USE: Final = "in use"

_DRIVER: Final = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device.

    Attributes:
        ordinal: its number in this process.
        name: what NVIDIA calls it.
        memory: in bytes.
        compute_capability: such as ``"9.0"``.
        has_context: whether something in this process has used it already.
    """

    ordinal: int
    name: str
    memory: int | None
    compute_capability: str | None
    has_context: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run on.

    Attributes:
        interop: the version of interop.
        extension: ``"in use"``, or that interop's extension in C is not, and why.
        python: the version of Python.
        bindings: the version of cuda-bindings.
        driver: the version of the kernel driver; None if there is none, or it cannot be read.
        driver_cuda: the latest CUDA that the driver runs, such as ``"13.0"``; None without a driver.
        runtime_cuda: the CUDA of the runtime that cuda-bindings brings.
        gpus: the devices that this process sees.
        current_device: the ordinal of the calling thread's.
        simulated: whether a simulation runs, and everything is about it.
        forked: whether this process was forked from one that had started CUDA.
        problem: why no GPU can be used; empty if one can.
        variables: those of :data:`VARIABLES` that are set.
    """

    interop: str
    extension: str
    python: str
    bindings: str
    driver: str | None
    driver_cuda: str | None
    runtime_cuda: str | None
    gpus: tuple[Gpu, ...]
    current_device: int | None
    simulated: bool
    forked: bool
    problem: str
    variables: dict[str, str]


def look(version: str) -> Machine:
    """Look at the machine, for interop *version*; creates no context. Starts the driver, as counting devices does."""
    cuda = _cudart.active()
    gpus: tuple[Gpu, ...] = ()
    current, problem = None, ""
    if cuda.was_forked:
        problem = "CUDA was started before this process was forked, and does not work in it"
    else:
        try:
            gpus = tuple(_gpu(cuda, ordinal) for ordinal in range(cuda.device_count()))
            current = cuda.current_device()
        except (NoDeviceError, CudaError) as error:
            problem = str(error).partition(_cudart.WAY_OUT)[0].strip()
    try:
        driver, runtime = _cudart.GPU.versions()
    except CudaError:  # in a process that was forked
        driver, runtime = 0, 0
    return Machine(
        interop=version,
        extension=IN_USE if _native.native else f"not in use: {_native.why_not}",
        python=platform.python_version(),
        bindings=importlib.metadata.version("cuda-bindings"),
        driver=_kernel_driver(),
        driver_cuda=_dotted(driver),
        runtime_cuda=_dotted(runtime),
        gpus=gpus,
        current_device=current,
        simulated=cuda.simulation is not None,
        forked=cuda.was_forked,
        problem=problem,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def _gpu(cuda: _cudart.Cuda, ordinal: int) -> Gpu:
    if cuda.simulation is not None:
        return Gpu(ordinal, "SIMULATED", None, None, has_context=True)
    name, memory, (major, minor) = cuda.device_facts(ordinal)
    return Gpu(ordinal, name, memory, f"{major}.{minor}", cuda.has_context(ordinal))


def _kernel_driver() -> str | None:
    found = re.search(r"\d+\.\d[\d.]*", _DRIVER.read_text()) if _DRIVER.exists() else None
    return found[0] if found else None


def _dotted(version: int) -> str | None:
    return f"{version // 1000}.{version % 1000 // 10}" if version else None
