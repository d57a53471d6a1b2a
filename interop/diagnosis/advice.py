"""Warnings and notes on what was found, each with what to do.

A rule is a function that takes the :class:`Facts` and yields :class:`Advice`. :data:`RULES` lists them.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from interop import _cuda, adapters
from interop._core.inspection import StreamFacts
from interop.adapters.table import BINDINGS_VARIABLE, CUPY_VARIABLE
from interop.diagnosis.attempt import attempt
from interop.diagnosis.libraries import LEGACY, PER_THREAD, Library
from interop.diagnosis.machine import IN_USE, Machine

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


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at.

    Attributes:
        machine: the machine.
        libraries: the installed libraries.
        numpy: the version of NumPy; None if it is not installed.
        broken: what is wrong with the metadata of a package, by the path of the metadata.
        in_use: the handles of the streams of the ``with interop.use(...)`` blocks around the call.
    """

    machine: Machine
    libraries: Sequence[Library]
    numpy: str | None
    broken: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[int] = frozenset()

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
    """The advice of all rules, warnings first."""
    found = [advice for rule in RULES for advice in _said(rule, facts)]
    return sorted(found, key=lambda advice: advice.kind != "warning")


def _said(rule: Callable[[Facts], Iterator[Advice]], facts: Facts) -> list[Advice]:
    nothing: list[Advice] = []
    advice, failure = attempt(lambda: list(rule(facts)), nothing)
    if failure:
        what, fix = f"the rule {rule.__name__} has failed: {failure}", "report this, with the whole table"
        return [Advice("warning", "interop", what, fix)]
    return advice


# -- the machine ---------------------------------------------------------------------------------------------------


def _no_gpu(facts: Facts) -> Iterator[Advice]:
    machine = facts.machine
    if not machine.problem or machine.bindings_failure:
        return
    major = (machine.driver_cuda or "").partition(".")[0]
    wanted = (machine.runtime_cuda or "").partition(".")[0]
    if machine.forked:
        fix = 'start the workers with "spawn": multiprocessing.set_start_method("spawn")'
    elif not major:
        fix = (
            "install NVIDIA's driver. `nvidia-smi` shows whether it works and, in a container, whether the GPUs are "
            "passed in (docker run --gpus all). Without a GPU: `with interop.sim.simulate() as gpu:`"
        )
    elif wanted and int(major) < int(wanted):
        fix = (
            f"the driver is for CUDA {machine.driver_cuda}, and cuda-bindings {machine.bindings} for {wanted}: update "
            f'the driver, or pip install "cuda-python<{wanted}", and the builds of the libraries for CUDA {major}'
        )
    else:
        fix = "see whether `nvidia-smi` lists a device, and whether CUDA_VISIBLE_DEVICES hides it"
    yield Advice("warning", "GPU", machine.problem, fix)


def _no_bindings(facts: Facts) -> Iterator[Advice]:
    failure = facts.machine.bindings_failure
    if failure and not _is_no_number(facts, BINDINGS_VARIABLE):
        yield Advice(
            "warning",
            "cuda-python",
            f"cuda.bindings, by which interop calls CUDA, cannot be used: {failure}",
            'pip install --force-reinstall "cuda-python>=12.9,<14"; rename files and folders of your own called "cuda"',
        )


def _no_number(facts: Facts) -> Iterator[Advice]:
    for variable, reader in ((BINDINGS_VARIABLE, "every call of cuda.bindings"), (CUPY_VARIABLE, "the import of CuPy")):
        if _is_no_number(facts, variable):
            yield Advice(
                "warning",
                variable,
                f"it is set to {facts.machine.variables[variable]!r}, which is not a number: {reader} fails",
                f"{variable}=1 for the per-thread default stream, or unset it for the legacy one",
            )


def _simulated(facts: Facts) -> Iterator[Advice]:
    if facts.machine.simulated:
        yield Advice(
            "note",
            "simulator",
            "a simulation runs: all streams here are SIMULATED",
            "to use the GPU, leave the `with` block of the simulation",
        )


def _nothing_installed(facts: Facts) -> Iterator[Advice]:
    if facts.libraries:
        return
    major = (facts.machine.driver_cuda or "13").partition(".")[0]
    yield Advice(
        "warning",
        "libraries",
        "none of the libraries that interop knows is installed",
        f"{adapters.how_to_install('cupy', 'numba', cuda=major)} brings CuPy and Numba",
    )


def _launches_block(facts: Facts) -> Iterator[Advice]:
    if facts.machine.variables.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        yield Advice(
            "warning",
            "CUDA_LAUNCH_BLOCKING",
            "every launch blocks the host until it is done: nothing overlaps, and a missing wait does not show",
            "unset it, unless you are looking for a launch that fails",
        )


def _checked(facts: Facts) -> Iterator[Advice]:
    if facts.machine.variables.get("INTEROP_CHECK") == "1":
        yield Advice(
            "note",
            "INTEROP_CHECK",
            "every operation checks its stream first, which is slow",
            "unset it to measure time",
        )


def _no_extension(facts: Facts) -> Iterator[Advice]:
    if facts.machine.extension != IN_USE:
        yield Advice(
            "note",
            "interop",
            f"no array can be exported by DLPack: interop's extension in C is {facts.machine.extension}",
            "install interop where there is a C compiler, for a Python with a GIL, and without INTEROP_NATIVE=0",
        )


# -- what is installed ---------------------------------------------------------------------------------------------


def _failures(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        if library.failure:
            yield Advice("warning", library.name, library.failure, "repair its installation, or uninstall it")
        if library.round_trip and library.round_trip.startswith("failed"):
            yield Advice(
                "warning",
                library.name,
                f"a stream that is handed to it does not come back as the same stream: {library.round_trip}",
                "interop does not work with this version of the library: report this, with the whole table",
            )


def _broken_metadata(facts: Facts) -> Iterator[Advice]:
    for place, failure in facts.broken.items():
        yield Advice(
            "warning",
            "packages",
            f"the metadata of a package cannot be read: {place}: {failure}",
            "install the package again, or delete its remains",
        )


def _no_metadata(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        if not library.distributions:
            yield Advice(
                "note",
                library.name,
                "its version is not known: no installed package contains it",
                "install its package, unless it is on sys.path on purpose",
            )


def _installed_twice(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        names = [name for name in library.distributions if name.startswith(f"{library.name}-")]
        if len(names) > 1 and library.name != "numba":
            yield Advice(
                "warning",
                library.name,
                f"it is installed twice, and the packages overwrite each other's files: {', '.join(names)}",
                f"pip uninstall {' '.join(names)}, then install the one for your CUDA version",
            )


def _numpy_too_new(facts: Facts) -> Iterator[Advice]:
    numba_cuda, numpy = facts.version("numba-cuda"), _numbers(facts.numpy or "")
    fails, numpy_from = _NUMBA_CUDA_FAILS
    if numba_cuda and numba_cuda[:2] <= fails and numpy[:2] >= numpy_from:
        yield Advice(
            "warning",
            "numba",
            f"NumPy {facts.numpy} is too new for numba-cuda {_dotted(numba_cuda)}: it compiles no kernel",
            f'pip install "numpy<{_dotted(numpy_from)}", or a later numba-cuda',
        )


def _cannot_use_a_gpu(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        if facts.machine.problem or facts.machine.simulated:
            return
        cpu_build = any(version.endswith("+cpu") for version in library.distributions.values())
        if cpu_build or library.remark.startswith("cannot use a GPU"):
            yield Advice(
                "warning",
                library.name,
                "as it is installed here, it cannot use a GPU" + (" (a build for the CPU)" if cpu_build else ""),
                "install its build for CUDA",
            )


# -- what 0 means --------------------------------------------------------------------------------------------------


def _numba_variable(facts: Facts) -> Iterator[Advice]:
    variables = facts.machine.variables
    is_set = variables.get(_NUMBA_VARIABLE, "0") not in ("", "0")
    if is_set and any(library.name == "numba" and library.null == LEGACY for library in facts.libraries):
        yield Advice(
            "warning",
            "numba",
            f"{_NUMBA_VARIABLE} does nothing with the bindings that Numba uses: its default stream is the legacy one",
            f"set {BINDINGS_VARIABLE}=1 instead, before anything is imported",
        )


def _defaults_differ(facts: Facts) -> Iterator[Advice]:
    kinds: dict[str, list[str]] = {}
    for library in facts.libraries:
        if library.default:
            kinds.setdefault(library.default, []).append(library.name)
    if len(kinds) > 1:
        found = "; ".join(f"the {kind} one in {', '.join(names)}" for kind, names in sorted(kinds.items()))
        yield Advice(
            "warning",
            "default streams",
            f"the handle 0, or no stream, means different streams in different libraries: {found}",
            "name a stream everywhere (`with interop.use(stream):`), or unset "
            f"{CUPY_VARIABLE} and {BINDINGS_VARIABLE}: PyTorch and RMM always take the legacy one",
        )


# -- the current streams -------------------------------------------------------------------------------------------


def _waits_for_legacy(legacy: StreamFacts, blocking: StreamFacts) -> bool:
    return legacy.address == _cuda.LEGACY and bool(blocking.blocking) and blocking.device == legacy.device


def _blocking_against_legacy(facts: Facts) -> Iterator[Advice]:
    for (one, legacy), (other, blocking) in itertools.permutations(facts.currents(), 2):
        if _waits_for_legacy(legacy, blocking):
            yield Advice(
                "warning",
                f"{one.name}, {other.name}",
                f"{one.name} works on the legacy default stream, and {other.name} on a blocking stream "
                f"({blocking.name}): each waits for all earlier work of the other, so nothing overlaps, and the "
                "program may depend on this order",
                f"give {other.name} a non-blocking stream, such as interop.new_stream(), and make the waits that are "
                "needed: consumer.wait_stream(producer)",
            )


def _sticky(facts: Facts) -> Iterator[Advice]:
    for library, stream in facts.currents():
        if library.name not in _STICKY or stream.address in facts.in_use:
            continue
        default = {LEGACY: _cuda.LEGACY, PER_THREAD: _cuda.PER_THREAD}.get(library.default or "")
        if stream.address != default:
            call, undo = _STICKY[library.name]
            yield Advice(
                "warning",
                library.name,
                f"its current stream is {stream.name}, not its default stream, and no `with interop.use(...)` block is "
                f"open: unless you are in a `with` block of the library, an earlier {call} still holds, maybe one in "
                "another cell",
                f"call {undo}; use `with interop.use(stream):`, which ends by itself",
            )


def _nobody_keeps_it(facts: Facts) -> Iterator[Advice]:
    for library, stream in facts.currents():
        if "nothing keeps it alive" in stream.not_asked:
            yield Advice(
                "warning",
                library.name,
                f"the library knows its current stream {stream.name} only by its address: if the owner of the stream "
                "destroys it, the next launch crashes",
                f'make it from the owner: interop.as_stream(owner).to("{library.name}")',
            )


def _capturing(facts: Facts) -> Iterator[Advice]:
    for library, stream in facts.currents():
        if stream.capturing:
            yield Advice(
                "warning",
                library.name,
                f"its current stream {stream.name} captures a graph: work that is submitted to it does not run now",
                "if that is not intended, end the capture first",
            )


def _same_or_different(facts: Facts) -> Iterator[Advice]:
    for (one, a), (other, b) in itertools.combinations(facts.currents(), 2):
        if (a.address, a.device) == (b.address, b.device):
            yield Advice(
                "note",
                f"{one.name}, {other.name}",
                f"both work on one stream, {a.name}: their work is in order",
                "nothing to do",
            )
        elif not _waits_for_legacy(a, b) and not _waits_for_legacy(b, a):
            yield Advice(
                "note",
                f"{one.name}, {other.name}",
                f"they work on two streams, {a.name} and {b.name}: nothing orders them but waits",
                "share one stream: `with interop.use(stream):`; or make one wait: consumer.wait_stream(producer)",
            )


RULES: Final[tuple[Callable[[Facts], Iterator[Advice]], ...]] = (
    _no_gpu,
    _no_bindings,
    _no_number,
    _simulated,
    _nothing_installed,
    _failures,
    _broken_metadata,
    _no_metadata,
    _installed_twice,
    _numpy_too_new,
    _cannot_use_a_gpu,
    _launches_block,
    _checked,
    _no_extension,
    _numba_variable,
    _defaults_differ,
    _blocking_against_legacy,
    _sticky,
    _nobody_keeps_it,
    _capturing,
    _same_or_different,
)


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
