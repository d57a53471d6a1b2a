"""Warnings and notes on what was found, each with what to do."""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from interop import _cuda, adapters
from interop._core.inspection import StreamFacts
from interop.adapters.table import BINDINGS_VARIABLE, CUPY_VARIABLE, TABLE
from interop.diagnosis import traps
from interop.diagnosis.attempt import attempt
from interop.diagnosis.libraries import LEGACY, NOT_LOADED, PER_THREAD, Library
from interop.diagnosis.machine import IN_USE, Machine
from interop.diagnosis.packages import Packages

_NUMBA_VARIABLE: Final = "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM"

# The call by which a library makes a stream current without a `with` block, and the call that undoes it.
_STICKY: Final = {
    "cupy": ("Stream.use()", "cupy.cuda.Stream.null.use()"),
    "torch": ("torch.cuda.set_stream()", "torch.cuda.set_stream(torch.cuda.default_stream())"),
}

# Seen: numba-cuda 0.30 compiles no kernel with NumPy 2.5, which has no row_stack. The metadata of numba-cuda allows the
# two together. Numba for the CPU works with NumPy 2.5.
_NUMBA_CUDA_FAILS: Final = ((0, 30), (2, 5))


@dataclass(frozen=True, slots=True)
class Advice:
    """One warning or note.

    Attributes:
        kind: ``"warning"`` or ``"note"``. A warning is about something that goes wrong.
        about: the library, or the part of the machine, that it is about.
        what: what was found.
        fix: what to do.
    """

    kind: Literal["warning", "note"]
    about: str
    what: str
    fix: str


_warning: Final = functools.partial(Advice, "warning")
_note: Final = functools.partial(Advice, "note")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the advice is about.

    Attributes:
        machine: the machine.
        libraries: the installed libraries.
        packages: the installed packages.
        in_use: the handles of the streams of the ``with interop.use(...)`` blocks around the call.
        loaded: which modules are loaded that have a trap.
    """

    machine: Machine
    libraries: Sequence[Library]
    packages: Packages = field(default_factory=Packages)
    in_use: frozenset[int] = frozenset()
    loaded: frozenset[str] = frozenset()

    def currents(self) -> list[tuple[Library, StreamFacts]]:
        """The libraries that have a current stream, and the stream."""
        return [(library, library.current) for library in self.libraries if library.current is not None]

    def version(self, distribution: str) -> tuple[int, ...] | None:
        """The version of a package as numbers; None if no library is installed by it."""
        for library in self.libraries:
            if distribution in library.distributions:
                return _numbers(library.distributions[distribution])
        return None


def advise(facts: Facts) -> list[Advice]:
    """All advice, warnings first."""
    found = [*_about_the_gpu(facts), *_about_the_environment(facts), *_about_what_is_installed(facts)]
    for library in facts.libraries:
        found += _about_a_library(facts, library)
    found += (Advice(*trap) for trap in traps.look(facts.machine.variables, facts.loaded, facts.packages.versions))
    found += _about_default_streams(facts)
    for library, stream in facts.currents():
        found += _about_a_current_stream(facts, library, stream)
    for one, other in itertools.combinations(facts.currents(), 2):
        found.append(_about_two_streams(*one, *other))
    return sorted(found, key=lambda advice: advice.kind != "warning")


# -- the machine ---------------------------------------------------------------------------------------------------


def _about_the_gpu(facts: Facts) -> Iterator[Advice]:
    machine = facts.machine
    if machine.bindings_failure:
        if not _is_no_number(facts, BINDINGS_VARIABLE):
            yield _warning(
                "cuda-python",
                f"cuda.bindings, by which interop calls CUDA, cannot be used: {machine.bindings_failure}",
                'pip install --force-reinstall "cuda-python>=12.9,<14"; rename your own files that are called "cuda"',
            )
    elif machine.problem:
        yield _warning("GPU", machine.problem, _way_to_a_gpu(machine))


def _way_to_a_gpu(machine: Machine) -> str:
    major = (machine.driver_cuda or "").partition(".")[0]
    wanted = (machine.runtime_cuda or "").partition(".")[0]
    if machine.forked:
        return 'start the workers with "spawn": multiprocessing.set_start_method("spawn")'
    if not major:
        return (
            "install NVIDIA's driver. `nvidia-smi` shows whether it works and, in a container, whether the GPUs are "
            "passed in (docker run --gpus all). Without a GPU: `with interop.sim.simulate() as gpu:`"
        )
    if wanted and int(major) < int(wanted):
        return (
            f"the driver is for CUDA {machine.driver_cuda}, and cuda-bindings {machine.bindings} for {wanted}: update "
            f'the driver, or pip install "cuda-python<{wanted}", and the builds of the libraries for CUDA {major}'
        )
    return "see whether `nvidia-smi` lists a device, and whether CUDA_VISIBLE_DEVICES hides it"


def _about_the_environment(facts: Facts) -> Iterator[Advice]:
    machine, variables = facts.machine, facts.machine.variables
    for variable, reader in ((BINDINGS_VARIABLE, "every call of cuda.bindings"), (CUPY_VARIABLE, "the import of CuPy")):
        if _is_no_number(facts, variable):
            yield _warning(
                variable,
                f"it is set to {variables[variable]!r}, which is not a number: {reader} fails",
                f"{variable}=1 for the per-thread default stream, or unset it for the legacy one",
            )
    if variables.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        yield _warning(
            "CUDA_LAUNCH_BLOCKING",
            "every launch blocks the host until it is done: nothing overlaps, and a missing wait does not show",
            "unset it, unless you are looking for a launch that fails",
        )
    if variables.get("INTEROP_CHECK") == "1":
        yield _note(
            "INTEROP_CHECK", "every operation checks its stream first, which is slow", "unset it to measure time"
        )
    if machine.simulated:
        yield _note(
            "simulator",
            "a simulation runs: all streams here are SIMULATED",
            "to use the GPU, leave the `with` block of the simulation",
        )
    if machine.extension != IN_USE:
        yield _note(
            "interop",
            f"no array can be exported by DLPack: interop's extension in C is {machine.extension}",
            "install interop where there is a C compiler, for a Python with a GIL, and without INTEROP_NATIVE=0",
        )


# -- what is installed ---------------------------------------------------------------------------------------------


def _about_what_is_installed(facts: Facts) -> Iterator[Advice]:
    major = (facts.machine.driver_cuda or "13").partition(".")[0]
    missing = sorted(TABLE.keys() - {library.name for library in facts.libraries})
    if not facts.libraries:
        yield _warning(
            "libraries",
            "none of the libraries that interop knows is installed",
            f"{adapters.how_to_install('cupy', 'numba', cuda=major)} brings CuPy and Numba",
        )
    elif missing:
        how = adapters.how_to_install(*missing, cuda=major)
        yield _note("libraries", f"not installed: {', '.join(missing)}", f"if you want to use them: {how}")
    if not_loaded := [library.name for library in facts.libraries if library.remark == NOT_LOADED]:
        yield _note(
            "libraries",
            f"not loaded, so not looked into: {', '.join(not_loaded)}",
            "python -m interop doctor --probe, or interop.doctor(probe=True), imports them and hands each a stream",
        )
    if other := facts.packages.versions.get("interop"):
        yield _warning(
            "interop",
            f"the package interop {other} is another project, whose module has the same name: one hides the other, or "
            "has overwritten its files",
            "pip uninstall interop, then install cuda-stream-interop again",
        )
    for place, failure in facts.packages.broken.items():
        yield _warning(
            "packages",
            f"the metadata of a package cannot be read: {place}: {failure}",
            "install the package again, or delete its remains",
        )
    numpy_version = facts.packages.versions.get("numpy", "")
    numba_cuda, numpy = facts.version("numba-cuda"), _numbers(numpy_version)
    fails, numpy_from = _NUMBA_CUDA_FAILS
    if numba_cuda and numba_cuda[:2] <= fails and numpy[:2] >= numpy_from:
        yield _warning(
            "numba",
            f"NumPy {numpy_version} is too new for numba-cuda {_dotted(numba_cuda)}: it compiles no kernel",
            f'pip install "numpy<{_dotted(numpy_from)}", or a later numba-cuda',
        )


def _about_a_library(facts: Facts, library: Library) -> Iterator[Advice]:
    name, installed = library.name, library.distributions
    if library.failure:
        yield _warning(name, library.failure, "repair its installation, or uninstall it")
    if library.round_trip and library.round_trip.startswith("failed"):
        yield _warning(
            name,
            f"a stream that is handed to it does not come back as the same stream: {library.round_trip}",
            "interop does not work with this version of the library: report this, with the whole table",
        )
    if not installed:
        yield _note(
            name,
            "its version is not known: no installed package contains it",
            "install its package, unless it is on sys.path on purpose",
        )
    builds = [package for package in installed if package.startswith(f"{name}-")]
    if len(builds) > 1 and name != "numba":
        yield _warning(
            name,
            f"it is installed twice, and the packages overwrite each other's files: {', '.join(builds)}",
            f"pip uninstall {' '.join(builds)}, then install the one for your CUDA version",
        )
    is_for_cpu = any(version.endswith("+cpu") for version in installed.values())
    has_gpu = not (facts.machine.problem or facts.machine.simulated)
    if has_gpu and (is_for_cpu or library.remark.startswith("cannot use a GPU")):
        yield _warning(
            name,
            "as it is installed here, it cannot use a GPU" + (" (a build for the CPU)" if is_for_cpu else ""),
            "install its build for CUDA",
        )


# -- streams -------------------------------------------------------------------------------------------------------


def _about_default_streams(facts: Facts) -> Iterator[Advice]:
    is_set = facts.machine.variables.get(_NUMBA_VARIABLE, "0") not in ("", "0")
    if is_set and any(library.name == "numba" and library.null == LEGACY for library in facts.libraries):
        yield _warning(
            "numba",
            f"{_NUMBA_VARIABLE} does nothing with the bindings that Numba uses: its default stream is the legacy one",
            f"set {BINDINGS_VARIABLE}=1 instead, before anything is imported",
        )
    kinds: dict[str, list[str]] = {}
    for library in facts.libraries:
        if library.default:
            kinds.setdefault(library.default, []).append(library.name)
    if len(kinds) > 1:
        found = "; ".join(f"the {kind} one in {', '.join(names)}" for kind, names in sorted(kinds.items()))
        yield _warning(
            "default streams",
            f"the handle 0, or no stream, means different streams in different libraries: {found}",
            "name a stream everywhere (`with interop.use(stream):`), or unset "
            f"{CUPY_VARIABLE} and {BINDINGS_VARIABLE}: PyTorch and RMM always take the legacy one",
        )


def _about_a_current_stream(facts: Facts, library: Library, stream: StreamFacts) -> Iterator[Advice]:
    default = {LEGACY: _cuda.LEGACY, PER_THREAD: _cuda.PER_THREAD}.get(library.default or "")
    if library.name in _STICKY and stream.address != default and stream.address not in facts.in_use:
        call, undo = _STICKY[library.name]
        yield _warning(
            library.name,
            f"its current stream is {stream.name}, not its default stream, and no `with interop.use(...)` block is "
            f"open: unless you are in a `with` block of the library, an earlier {call} still holds, maybe one in "
            "another cell",
            f"call {undo}; use `with interop.use(stream):`, which ends by itself",
        )
    if "nothing keeps it alive" in stream.not_asked:
        yield _warning(
            library.name,
            f"the library knows its current stream {stream.name} only by its address: if the owner of the stream "
            "destroys it, the next launch crashes",
            f'make it from the owner: interop.as_stream(owner).to("{library.name}")',
        )
    if stream.capturing:
        yield _warning(
            library.name,
            f"its current stream {stream.name} captures a graph: work that is submitted to it does not run now",
            "if that is not intended, end the capture first",
        )


def _about_two_streams(one: Library, a: StreamFacts, other: Library, b: StreamFacts) -> Advice:
    if _waits_for_legacy(b, a):
        one, a, other, b = other, b, one, a
    about = f"{one.name}, {other.name}"
    if _waits_for_legacy(a, b):
        return _warning(
            about,
            f"{one.name} works on the legacy default stream, and {other.name} on a blocking stream ({b.name}): each "
            "waits for all earlier work of the other, so nothing overlaps, and the program may depend on this order",
            f"give {other.name} a non-blocking stream, such as interop.new_stream(), and make the waits that are "
            "needed: consumer.wait_stream(producer)",
        )
    if (a.address, a.device) == (b.address, b.device):
        return _note(about, f"both work on one stream, {a.name}: their work is in order", "nothing to do")
    return _note(
        about,
        f"they work on two streams, {a.name} and {b.name}: nothing orders them but waits",
        "share one stream: `with interop.use(stream):`; or make one wait: consumer.wait_stream(producer)",
    )


def _waits_for_legacy(legacy: StreamFacts, blocking: StreamFacts) -> bool:
    return legacy.address == _cuda.LEGACY and bool(blocking.blocking) and blocking.device == legacy.device


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _is_no_number(facts: Facts, variable: str) -> bool:
    """Whether a variable that is read by ``int()`` is set to something that is not a number."""
    value = facts.machine.variables.get(variable)
    return value is not None and attempt(lambda: int(value), None)[0] is None


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
