"""interop's plugin for pytest: marks for what a test needs, and fixtures for streams, libraries and gates.

pytest loads the plugin by its entry point when interop is installed. In a run that does not use it, the plugin calls no
CUDA, imports no library, and reports nothing. The name of each fixture begins with ``interop_``. The marks ``gpu`` and
``needs`` are interop's, unless the project or another plugin has registered a mark of that name.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import pytest

import interop
from interop import _cuda, adapters
from interop._show.callsite import user_trace
from interop.errors import InteropError, NoDeviceError

if TYPE_CHECKING:
    from interop.sim import SimulatedGPU
    from interop.stream import ExternalStream
    from interop.testing import Gate

_DEVICES: Final = re.compile(r"gpu([1-9]\d*)?")
_MARKS: Final = {
    "gpu": "gpu(n=1): needs n CUDA devices; skipped where they are missing, failed where --interop-require names them",
    "needs": "needs(*names): needs libraries by import path, 'gpu', 'gpu2' and so on, or 'no_gpu'; skipped where one "
    "is missing, failed where --interop-require names it",
}
_WITHOUT_STREAMS: Final = frozenset({"jax"})
"""Libraries that take no stream from outside, so no test can have a stream of theirs."""

_SIMULATION: Final = "interop_simulated_gpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer ``--interop-require`` and ``--interop-check``."""
    parser.getgroup("interop").addoption(
        "--interop-check",
        action="store_true",
        help="watch each test, as interop.ordering.check does: a test in which nothing orders two accesses fails",
    )
    parser.getgroup("interop").addoption(
        "--interop-require",
        default="",
        metavar="NAMES",
        help="what must be there, with commas between: 'gpu', 'gpu2' and so on, and libraries by import path; a test "
        "that needs one that is missing fails, and is not skipped",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marks that the project has not registered itself.

    Raises:
        pytest.UsageError: ``--interop-require`` has a name that is neither known nor installed.
    """
    for name, line in _MARKS.items():
        if not _is_theirs(name, config):
            config.addinivalue_line("markers", line)
    unknown = sorted(name for name in _required(config) if not _is_known(name))
    if unknown:
        missing, known = ", ".join(unknown), ", ".join(["gpu", "gpu2", *adapters.known()])
        message = f"--interop-require: not known, and not installed: {missing}; known: {known}"
        raise pytest.UsageError(message)
    if config.getoption("interop_check"):
        _hold_the_eye(config)


def _hold_the_eye(config: pytest.Config) -> None:
    """Open the driver's eye for the whole run: it knows the kernels that it has seen being loaded."""
    from interop.ledger.driver import watch  # noqa: PLC0415  (a run that checks nothing does not pay for it)

    whole = watch.Watch()
    with contextlib.suppress(watch.EyeShut):  # then the eyes of the libraries are used
        whole.open()
        watch.shared.append(whole)
        config.add_cleanup(whole.close)
        config.add_cleanup(lambda: watch.shared.remove(whole))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test that needs something that is missing."""
    # Asked now, and not when the run begins: the conftest of a sub-folder may register marks while tests are collected.
    names: list[str] = []
    if not _is_theirs("gpu", item.config):
        names += [f"gpu{_count(mark)}" for mark in item.iter_markers("gpu")]
    if not _is_theirs("needs", item.config):
        names += [name for mark in item.iter_markers("needs") for name in _names(mark.args, mark.kwargs)]
    if names:
        _demand(item.config, names)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """With ``--interop-check``, fail a test in which there was a race."""
    if not item.config.getoption("interop_check"):
        return (yield)
    with interop.ordering.check(raises=False) as ledger:
        result = yield
    if ledger.unknown:
        item.add_report_section("call", "interop", str(ledger))
    if ledger.races:
        pytest.fail(str(ledger), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail the test if, at its end, a gate that is still referenced has had to open itself."""
    yield
    if gates := sys.modules.get("interop.testing.gate"):  # else there are none, and a run pays for nothing
        late = gates.forgotten()
        for each in late:
            each.let_pass()
        _fail_if_late(late)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> None:
    """Show an error of interop without the frames of interop, unless ``--full-trace`` asks for all."""
    found = call.excinfo
    if found is None or not isinstance(found.value, InteropError) or item.config.getoption("fulltrace"):
        return
    if trace := user_trace(found.tb):
        call.excinfo = pytest.ExceptionInfo.from_exc_info((found.type, found.value, trace))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each library that is installed or required, or for each ordered pair.

    A test may name its libraries: ``@pytest.mark.parametrize("interop_library", ["cupy"], indirect=True)``.
    """
    for fixture, count in (("interop_library", 1), ("interop_library_pair", 2)):
        if fixture in metafunc.fixturenames and not _is_parametrized(metafunc, fixture):
            tuples = list(itertools.product(_libraries(metafunc.config), repeat=count))
            metafunc.parametrize(fixture, tuples, indirect=True, ids=["-".join(names) for names in tuples])


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report what ``--interop-require`` names."""
    names = sorted(_required(config))
    return [f"interop {interop.__version__}: requires {', '.join(names)}"] if names else []


# -- fixtures ------------------------------------------------------------------------------------------------------


class Library(NamedTuple):
    """A library that is installed, and can use a GPU.

    Attributes:
        name: its import path.
    """

    name: str

    def stream(self, device: int | None = None) -> Any:  # noqa: ANN401  (the library's own type)
        """A new non-blocking stream, as an object of the library's own type, which keeps it alive.

        Args:
            device: ordinal of the device, by default the current one.
        """
        return interop.new_stream(device).to(self.name)


@pytest.fixture
def interop_need(request: pytest.FixtureRequest) -> Callable[..., None]:
    """The mark ``needs`` as a function, for names that only a parameter tells."""
    return lambda *names: _demand(request.config, _names(names, {}))


@pytest.fixture
def interop_stream(request: pytest.FixtureRequest) -> "ExternalStream":
    """A new non-blocking stream on the current device, or of the simulation that is running. Needs a GPU otherwise."""
    _demand(request.config, _gpu_or_simulation(request))
    return interop.new_stream()


@pytest.fixture
def interop_stream_pair(request: pytest.FixtureRequest) -> "tuple[ExternalStream, ExternalStream]":
    """Two new streams, as :func:`interop_stream` makes them, with the names "producer" and "consumer"."""
    _demand(request.config, _gpu_or_simulation(request))
    return interop.new_stream(name="producer"), interop.new_stream(name="consumer")


@pytest.fixture
def interop_library(request: pytest.FixtureRequest) -> Library:
    """Each library that is installed, in turn. ``interop_library.stream()`` makes a stream of its type. Needs a GPU."""
    return _prepared(request)[0]


@pytest.fixture
def interop_library_pair(request: pytest.FixtureRequest) -> tuple[Library, ...]:
    """Each ordered pair of them, a library with itself among them: a producer and a consumer. Needs a GPU."""
    return _prepared(request)


@pytest.fixture
def interop_gate(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Gate]]":
    """``interop_gate(stream, timeout=10)``, as :func:`interop.testing.gate`; each is opened at the end of the test.

    A gate that had to open itself fails the test.
    """
    from interop import testing  # noqa: PLC0415  (a run that uses none of this does not pay for it)

    _simulate_first(request)
    gates: list[Gate] = []

    def shut(stream: object, timeout: float = 10.0) -> "Gate":
        gates.append(testing.gate(stream, timeout))
        return gates[-1]

    yield shut
    late = [gate for gate in gates if gate.is_overdue]
    for each in gates:
        each.let_pass()
    _fail_if_late(late)


@pytest.fixture
def interop_simulated_gpu() -> "Iterator[SimulatedGPU]":
    """A simulation of one device, for the length of the test. It begins before the streams and the gates are made."""
    with interop.sim.simulate() as gpu:
        yield gpu


@pytest.fixture
def interop_gpu_lock() -> Iterator[None]:
    """Hold a lock on this machine's GPUs: one test at a time, among all processes of this user, as xdist's."""
    import fcntl  # noqa: PLC0415  (not on every platform)

    path = Path(tempfile.gettempdir()) / f"interop-gpu-{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, or by the end of this process
        try:
            yield
        finally:
            # Closing the file is not enough: processes that the test has forked have it open.
            fcntl.flock(file, fcntl.LOCK_UN)


def _simulate_first(request: pytest.FixtureRequest) -> None:
    """If the test asks for a simulation, begin it, wherever the fixture stands among the arguments."""
    if _SIMULATION in request.fixturenames:
        request.getfixturevalue(_SIMULATION)


def _fail_if_late(gates: "list[Gate]") -> None:
    if gates:
        said = (f"{each!r} had to open itself: nobody did within {each.timeout} s" for each in gates)
        pytest.fail("\n".join(said), pytrace=False)


# -- what is missing -----------------------------------------------------------------------------------------------


def _demand(config: pytest.Config, names: Iterable[str]) -> None:
    """Skip the test, or fail it, if one of *names* is missing."""
    missing = {name: reason for name in dict.fromkeys(names) if (reason := _missing(name))}
    required = _required(config)
    for name, reason in missing.items():
        if demanded := _demanded_by(name, required):
            pytest.fail(f"--interop-require={demanded}, but {reason}", pytrace=False)
    if missing:
        _skip("; ".join(missing.values()))


def _skip(reason: str) -> NoReturn:
    """Skip the test, and report the location of the test, not of this function."""
    raise pytest.skip.Exception(reason, _use_item_location=True)


def _gpu_or_simulation(request: pytest.FixtureRequest) -> list[str]:
    """What a stream needs: a GPU, unless a simulation is running, or the test asks for one."""
    _simulate_first(request)
    return ["gpu"] if _cuda.active().simulation is None else []


def _required(config: pytest.Config) -> set[str]:
    return {name.strip() for name in config.getoption("--interop-require").split(",")} - {""}


def _demanded_by(name: str, required: set[str]) -> str | None:
    """The name among *required* that requires *name*: to require two devices is to require one."""
    count = _devices(name)
    if count is None:
        return name if name in required else None
    return next((other for other in sorted(required) if (_devices(other) or 0) >= count), None)


def _devices(name: str) -> int | None:
    """How many devices *name* stands for; None if it is no such name."""
    found = _DEVICES.fullmatch(name)
    return int(found[1] or 1) if found else None


def _is_theirs(name: str, config: pytest.Config) -> bool:
    """Whether the project, or another plugin, has registered a mark of this name."""
    lines = config.getini("markers")
    return any(line != _MARKS[name] and re.split(r"[(:\s]", line, maxsplit=1)[0] == name for line in lines)


def _count(mark: pytest.Mark) -> int:
    def gpu(n: object = 1) -> object:
        return n

    try:
        count = gpu(*mark.args, **mark.kwargs)
    except TypeError:
        count = None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        given = _shown(mark.args, mark.kwargs)
        message = f"the mark gpu(n) takes how many devices the test needs, 1 or more; got gpu({given})"
        raise pytest.UsageError(message)
    return count


def _names(given: tuple[object, ...], named: Mapping[str, object]) -> list[str]:
    names = [name for name in given if isinstance(name, str) and all(name.split("."))]
    if not given or named or len(names) < len(given):
        raise _no_names(_shown(given, named))
    for name in names:
        if name != "no_gpu" and not _is_known(name):
            _refuse_misspelt(name)
    return names


def _no_names(said: str) -> pytest.UsageError:
    return pytest.UsageError(
        f'what a test needs is named by strings, import paths such as needs("cupy", "torch"); got needs({said})'
    )


def _shown(given: tuple[object, ...], named: Mapping[str, object]) -> str:
    return ", ".join([*map(repr, given), *(f"{key}={value!r}" for key, value in named.items())])


def _refuse_misspelt(name: str) -> None:
    """Refuse a name close to one that interop knows: a test that needs it would always be skipped."""
    known = adapters.known()
    meant = difflib.get_close_matches(name.lower(), ["gpu", "no_gpu", *known], n=1, cutoff=0.8)
    is_path = all(map(str.isidentifier, name.split(".")))
    if not is_path and not meant:
        raise _no_names(repr(name))
    if meant and not (is_path and name.startswith(tuple(known))):  # cupyx is a package of its own
        message = f"nothing of the name {name!r} is known or installed; did you mean {meant[0]!r}?"
        raise pytest.UsageError(message)


def _is_known(name: str) -> bool:
    return bool(_devices(name)) or name in adapters.known() or _is_installed(name)


@functools.cache
def _missing(name: str) -> str:
    """Why *name* is missing; empty if it is there. If a library is broken, the error of its import goes on."""
    count = _devices(name)
    if count is not None:
        there = _device_count()
        return "" if there >= count else f"there are {there} CUDA devices, not {count}"
    if name == "no_gpu":
        return "there is a CUDA device" if _device_count() else ""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        return f"{name} is not installed" + ("" if name in adapters.known() else ", and interop knows no such library")
    return ""


@functools.cache
def _device_count() -> int:
    try:
        return _cuda.GPU.device_count()
    except NoDeviceError:
        return 0


def _is_installed(library: str) -> bool:
    """Whether *library* can be found; it is not imported."""
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # of a package around it; of a module that is only pretended
        return False


def _is_parametrized(metafunc: pytest.Metafunc, fixture: str) -> bool:
    """Whether the test parametrizes *fixture* itself."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if fixture in (re.split(r"[,\s]+", names) if isinstance(names, str) else names):
            return True
    return False


def _libraries(config: pytest.Config) -> list[str]:
    required = _required(config)
    return [
        name for name in adapters.known() if name not in _WITHOUT_STREAMS and (name in required or _is_installed(name))
    ]


def _prepared(request: pytest.FixtureRequest) -> tuple[Library, ...]:
    if not hasattr(request, "param"):
        message = (
            f"{request.fixturename} has a parameter for each library, and so has to be among the arguments of the "
            "test, or of a fixture that it asks for: getfixturevalue cannot bring it"
        )
        raise pytest.UsageError(message)
    names: tuple[str, ...] = (request.param,) if isinstance(request.param, str) else tuple(request.param)
    for name in names:
        if name not in adapters.known():
            message = (
                f"{request.fixturename} is a library that interop knows: {', '.join(adapters.known())}; got {name!r}"
            )
            raise pytest.UsageError(message)
    _demand(request.config, [*names, *_gpu_or_simulation(request)])
    for name in names:
        if _cuda.active().simulation is not None and adapters.adapter_named(name).simulated is False:
            _skip(f"{name} cannot use the streams of a simulation")
        if not adapters.adapter_named(name).usable():
            reason = f"{name}, as installed here, cannot use a GPU"
            if name in _required(request.config):
                pytest.fail(f"--interop-require={name}, but {reason}", pytrace=False)
            _skip(reason)
    return tuple(map(Library, names))
