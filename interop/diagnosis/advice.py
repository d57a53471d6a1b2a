"""What is wrong, or worth knowing, in plain words, each with what to do about it.

A rule is a function of the facts that yields :class:`Advice`; all of them are in :data:`RULES`.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from interop import _cuda, adapters
from interop._core.inspection import StreamFacts
from interop.diagnosis.attempt import attempt
from interop.diagnosis.libraries import BINDINGS_VARIABLE, CUPY_VARIABLE, LEGACY, PER_THREAD, Library
from interop.diagnosis.machine import IN_USE, Machine

_NUMBA_VARIABLE: Final = "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM"

# By which call a library makes a stream current until further notice, and how to take that back.
_STICKY: Final = {
    "cupy": ("Stream.use()", "cupy.cuda.Stream.null.use()"),
    "torch": ("torch.cuda.set_stream()", "torch.cuda.set_stream(torch.cuda.default_stream())"),
}

# Seen: numba-cuda 0.30 compiles no kernel with NumPy 2.5, which has no row_stack, though its package allows it. Numba
# itself, for the CPU, works with it.
_NUMBA_CUDA_FAILS: Final = ((0, 30), (2, 5))


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know.

    Attributes:
        kind: a ``"warning"`` is about what goes wrong, a ``"note"`` about what is good to know.
        about: what it is about: a library, or a part of the machine.
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
        libraries: those that are installed.
        numpy: the version of NumPy; None without.
        broken: what is wrong with the metadata of a package, by the place of the metadata.
        in_use: the addresses of the streams of the ``with interop.use(...)`` blocks around the call.
    """

    machine: Machine
    libraries: Sequence[Library]
    numpy: str | None
    broken: Mapping[str, str] = field(default_factory=dict)
    in_use: frozenset[int] = frozenset()

    def currents(self) -> list[tuple[Library, StreamFacts]]:
        """The libraries with a current stream, and that stream."""
        return [(library, library.current) for library in self.libraries if library.current is not None]

    def version(self, distribution: str) -> tuple[int, ...] | None:
        """The version of a package of a library's, as numbers."""
        for library in self.libraries:
            if distribution in library.distributions:
                return _numbers(library.distributions[distribution])
        return None


def advise(facts: Facts) -> list[Advice]:
    """What all rules say, warnings first."""
    found = [advice for rule in RULES for advice in _said(rule, facts)]
    return sorted(found, key=lambda advice: advice.kind != "warning")


def _said(rule: Callable[[Facts], Iterator[Advice]], facts: Facts) -> list[Advice]:
    nothing: list[Advice] = []
    advice, failure = attempt(lambda: list(rule(facts)), nothing)
    if failure:
        what, fix = f"the rule {rule.__name__} has failed: {failure}", "report it, with this table"
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
            "install NVIDIA's driver; `nvidia-smi` shows whether it works, and in a container whether the GPUs are "
            "passed in (docker run --gpus all). Without a GPU: `with interop.sim.simulate() as gpu:`"
        )
    elif wanted and int(major) < int(wanted):
        fix = (
            f"the driver is for CUDA {machine.driver_cuda}, and cuda-bindings {machine.bindings} for {wanted}: update "
            f'the driver, or pip install "cuda-python<{wanted}", and the libraries in their builds for CUDA {major}'
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
            f"interop calls CUDA by cuda.bindings, which cannot be used: {failure}",
            'pip install --force-reinstall "cuda-python>=12.9,<14"; and give no file or folder of yours the name cuda',
        )


def _no_number(facts: Facts) -> Iterator[Advice]:
    for variable, reader in ((BINDINGS_VARIABLE, "every call of cuda.bindings"), (CUPY_VARIABLE, "the import of CuPy")):
        if _is_no_number(facts, variable):
            yield Advice(
                "warning",
                variable,
                f"it is set to {facts.machine.variables[variable]!r}, which is no number: {reader} fails",
                f"{variable}=1 for the per-thread default stream, or unset it for the legacy one",
            )


def _simulated(facts: Facts) -> Iterator[Advice]:
    if facts.machine.simulated:
        yield Advice(
            "note",
            "simulator",
            "a simulation runs: all streams here are SIMULATED",
            "leave its `with` block for the GPU",
        )


def _nothing_installed(facts: Facts) -> Iterator[Advice]:
    if facts.libraries:
        return
    major = (facts.machine.driver_cuda or "13").partition(".")[0]
    yield Advice(
        "warning",
        "libraries",
        "none of the libraries that interop joins is installed",
        f"{adapters.how_to_install('cupy', 'numba', cuda=major)} brings CuPy and Numba",
    )


def _launches_block(facts: Facts) -> Iterator[Advice]:
    if facts.machine.variables.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        yield Advice(
            "warning",
            "CUDA_LAUNCH_BLOCKING",
            "every launch blocks the host until it is done: nothing overlaps, and a missing wait does not show",
            "unset it, except when hunting for the launch that fails",
        )


def _checked(facts: Facts) -> Iterator[Advice]:
    if facts.machine.variables.get("INTEROP_CHECK") == "1":
        yield Advice(
            "note",
            "INTEROP_CHECK",
            "every operation checks its stream first: safe, and slow",
            "unset it to measure time",
        )


def _no_extension(facts: Facts) -> Iterator[Advice]:
    if facts.machine.extension != IN_USE:
        yield Advice(
            "note",
            "interop",
            f"arrays cannot be given away by DLPack: its extension in C is {facts.machine.extension}",
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
                f"a stream that is handed to it does not come back as itself: {library.round_trip}",
                "this is a fault of interop with this version of the library: report it, with this table",
            )


def _broken_metadata(facts: Facts) -> Iterator[Advice]:
    for place, failure in facts.broken.items():
        yield Advice(
            "warning",
            "packages",
            f"the metadata of a package cannot be read: {place}: {failure}",
            "install the package again, or remove what is left of it",
        )


def _no_metadata(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        if not library.distributions:
            yield Advice(
                "note",
                library.name,
                "its version is not known: no package says that it has installed it",
                "install it by its package, unless it is on the path on purpose",
            )


def _installed_twice(facts: Facts) -> Iterator[Advice]:
    for library in facts.libraries:
        names = [name for name in library.distributions if name.startswith(f"{library.name}-")]
        if len(names) > 1 and library.name != "numba":
            yield Advice(
                "warning",
                library.name,
                f"it is installed more than once, and the packages overwrite each other: {', '.join(names)}",
                f"pip uninstall {' '.join(names)}, and install the one for your CUDA",
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
            f"0, or no stream at all, means another stream in different libraries: {found}",
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
                f"{one.name} works on the legacy default stream, and {other.name} on a blocking one ({blocking.name}): "
                "each waits for all the other was given before, so nothing overlaps, and an order is there that nobody "
                "wrote down",
                f"give {other.name} a non-blocking stream, such as interop.new_stream(), and write the waits down: "
                "consumer.wait_stream(producer)",
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
                f"its current stream is {stream.name}, not its default one, and no `with interop.use(...)` says so: "
                f"unless you are inside a `with` of its own, an earlier {call}, maybe in another cell, still holds",
                f"{undo}; and `with interop.use(stream):`, which ends by itself",
            )


def _nobody_keeps_it(facts: Facts) -> Iterator[Advice]:
    for library, stream in facts.currents():
        if "nothing keeps it alive" in stream.not_asked:
            yield Advice(
                "warning",
                library.name,
                f"its current stream {stream.name} is only an address to it: when whoever made the stream lets go of "
                "it, the next launch crashes",
                f'hand it over with its owner: interop.as_stream(owner).to("{library.name}")',
            )


def _capturing(facts: Facts) -> Iterator[Advice]:
    for library, stream in facts.currents():
        if stream.capturing:
            yield Advice(
                "warning",
                library.name,
                f"its current stream {stream.name} captures a graph: work that is given to it is only noted down",
                "end the capture first, if that is not meant",
            )


def _same_or_different(facts: Facts) -> Iterator[Advice]:
    for (one, a), (other, b) in itertools.combinations(facts.currents(), 2):
        if (a.address, a.device) == (b.address, b.device):
            yield Advice(
                "note",
                f"{one.name}, {other.name}",
                f"both work on one stream, {a.name}: in order, without a wait",
                "nothing to do",
            )
        elif not _waits_for_legacy(a, b) and not _waits_for_legacy(b, a):
            yield Advice(
                "note",
                f"{one.name}, {other.name}",
                f"they work on two streams, {a.name} and {b.name}: interop, and nothing else, orders them",
                "share one: `with interop.use(stream):`; or wait: consumer.wait_stream(producer)",
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
    """Whether a variable is set that is read by ``int()``, and to something else than a number."""
    value = facts.machine.variables.get(variable)
    return value is not None and attempt(lambda: int(value), None)[0] is None


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
