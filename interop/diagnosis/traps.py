"""What is known to go wrong with a library or a variable that is there, and the way out.

The libraries here have no adapter, or the trap is not one of their streams. docs/with.md says more of each.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from interop.diagnosis.attempt import attempt

MPS: Final = "CUDA_MPS_"
"""With this begin the variables of CUDA's service by which processes share a GPU."""
_QUEUES: Final = 8
"""How many streams CUDA can feed at once if ``CUDA_DEVICE_MAX_CONNECTIONS`` is not set."""


class Trap(NamedTuple):
    """One trap, in the order of the fields of an advice.

    Attributes:
        kind: ``"warning"`` if it ends the process, else ``"note"``.
        about: the library or the variable.
        what: what goes wrong.
        fix: the way out.
    """

    kind: Literal["warning", "note"]
    about: str
    what: str
    fix: str


class _OfALibrary(NamedTuple):
    module: str
    """It must be loaded."""
    packages: tuple[str, ...]
    """One of these must be installed, if any is named."""
    version: str
    """What its version begins with."""
    trap: Trap


_LIBRARIES: Final = (
    _OfALibrary(
        "cuvs",
        ("cuvs-cu12", "cuvs-cu13"),
        "26.10.",
        Trap(
            "warning",
            "cuvs",
            "Resources(stream=...) of cuVS 26.10 crashes the process for the address of a stream",
            "make Resources() without a stream, and let the host wait: stream.synchronize() before, resources.sync() "
            "after",
        ),
    ),
    _OfALibrary(
        "cvcuda",
        (),
        "",
        Trap(
            "note",
            "cvcuda",
            "for an array that states no stream which it knows, CV-CUDA synchronises the whole device at every call",
            'order the array first, and state "stream": -1 in its array interface, which means that this was done',
        ),
    ),
    _OfALibrary(
        "nccl.core",
        (),
        "",
        Trap(
            "note",
            "nccl.core",
            "the collectives of nccl4py order no arrays: they read them on the stream of the call, at once",
            "make that stream wait for the writer: stream.wait_stream(producer), or interop.handoff(x, stream)",
        ),
    ),
    _OfALibrary(
        "nvidia.dali.experimental.dynamic",
        (),
        "",
        Trap(
            "note",
            "DALI",
            "results of the dynamic mode may be submitted later, by a thread of DALI: an event or a wait that is made "
            "now can miss them",
            "work in `with interop.use(stream):`, where operators submit before they return; or call evaluate() on the "
            "result first",
        ),
    ),
    _OfALibrary(
        "onnxruntime",
        ("onnxruntime-gpu",),
        "",
        Trap(
            "note",
            "onnxruntime",
            "OrtValue.from_dlpack names no stream to the producer, and OrtValue.__dlpack__(stream=) ignores its "
            "stream: on a GPU, each is a race",
            'name the session\'s stream, "user_compute_stream": str(stream.cuda_stream), and order the arrays for it: '
            "interop.handoff(x, stream)",
        ),
    ),
)


def loaded() -> frozenset[str]:
    """Which modules are loaded that have a trap."""
    return frozenset(library.module for library in _LIBRARIES if sys.modules.get(library.module) is not None)


def look(variables: Mapping[str, str], modules: frozenset[str], versions: Mapping[str, str]) -> Iterator[Trap]:
    """The traps that are there.

    Args:
        variables: the environment variables that are set.
        modules: what :func:`loaded` has returned.
        versions: the versions of the installed packages.
    """
    yield from _of_variables(variables)
    for module, packages, version, trap in _LIBRARIES:
        there = [versions[package] for package in packages if package in versions]
        if module in modules and (not packages or any(found.startswith(version) for found in there)):
            yield trap


def _of_variables(variables: Mapping[str, str]) -> Iterator[Trap]:
    if variables.get("CUDF_PER_THREAD_STREAM", "0") not in ("", "0"):
        yield Trap(
            "note",
            "CUDF_PER_THREAD_STREAM",
            "cuDF and pylibcudf work on the per-thread default stream, another one in each thread",
            "name it for what they have made, in the thread that made it: interop.handoff(x, stream, producer=2)",
        )
    for name, library in (("CUPY", "CuPy"), ("NUMBA", "Numba")):
        variable = f"{name}_CUDA_ARRAY_INTERFACE_SYNC"
        if _number(variables.get(variable)) == 0:
            yield Trap(
                "note",
                variable,
                f"{library} does not wait for the stream that an array states: its own conversions of such arrays are "
                "races",
                "interop.handoff(array, stream), which waits on the device; or unset it",
            )
    connections = _number(variables.get("CUDA_DEVICE_MAX_CONNECTIONS"))
    if connections is not None and connections < _QUEUES:
        yield Trap(
            "note",
            "CUDA_DEVICE_MAX_CONNECTIONS",
            f"all streams share {connections} queues, and not {_QUEUES}: work of one can hold up another, so less "
            "overlaps, and a missing wait may not show",
            "unset it to look for a missing wait",
        )
    if names := sorted(name for name in variables if name.startswith(MPS)):
        yield Trap(
            "note",
            "MPS",
            f"this process may share the GPU with others by CUDA's MPS: {', '.join(names)} set. Times depend on the "
            "others, and an error of one can end them all",
            "to measure, or to find a crash, run without the MPS daemon",
        )


def _number(value: str | None) -> int | None:
    """The value as a number; None if it is not set, or not a number."""
    return None if value is None else attempt(lambda: int(value), None)[0]
