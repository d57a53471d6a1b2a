"""What the tests share: what a test needs, memory to borrow, a library that does not exist, other interpreters."""

import ctypes
import functools
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import interop
from interop import adapters
from interop.adapters.base import Adapter

_DEVICES = {"gpu": 1, "gpu2": 2}
"""How many devices each name stands for."""
_REQUIRABLE = {*_DEVICES, *adapters.BUILT_IN, "acme_streams", "interop._native", "numpy"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--interop-require",
        default="",
        metavar="NAMES",
        help="a test that needs one of these fails if it is missing: " + ", ".join(sorted(_REQUIRABLE)),
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(*names): libraries by import path, 'gpu', 'gpu2', or 'no_gpu'; skips where one is missing, fails where "
        "--interop-require names it",
    )
    unknown = _required(config) - _REQUIRABLE
    if unknown:
        message = f"--interop-require: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(_REQUIRABLE))}"
        raise pytest.UsageError(message)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The GPU suite runs when it is named, and not with the rest."""
    gpu = Path(__file__).with_name("gpu")
    named = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return True if collection_path == gpu and not any(path.resolve().is_relative_to(gpu) for path in named) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _demand(item.config, [name for mark in item.iter_markers("needs") for name in mark.args])


@pytest.fixture
def need(request: pytest.FixtureRequest) -> Callable[..., None]:
    """The mark ``needs`` as a function, for names that only a parameter tells."""
    return lambda *names: _demand(request.config, names)


def _demand(config: pytest.Config, names: Iterable[str]) -> None:
    missing = {name: reason for name in dict.fromkeys(names) if (reason := _missing(name))}
    for name in _required(config) & missing.keys():
        pytest.fail(f"--interop-require={name}, but {missing[name]}", pytrace=False)
    if missing:
        pytest.skip("; ".join(missing.values()))


def _required(config: pytest.Config) -> set[str]:
    return {name.strip() for name in config.getoption("--interop-require").split(",")} - {""}


@functools.cache
def _missing(name: str) -> str:
    """Why *name* is not here, or nothing. A library that is installed but broken raises what it raises."""
    if name in _DEVICES:
        return "" if _device_count() >= _DEVICES[name] else f"there are {_device_count()} CUDA devices, not {name}"
    if name == "no_gpu":
        return "there is a CUDA device" if _device_count() else ""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        return f"{name} is not installed"
    return ""


@functools.cache
def _device_count() -> int:
    from cuda.bindings import runtime

    code, count = runtime.cudaGetDeviceCount()
    return 0 if code else count


@pytest.fixture
def address() -> Iterator[int]:
    """The address of live, readable memory that is no stream: good for all that does not reach CUDA."""
    memory = ctypes.create_string_buffer(1024)
    yield (ctypes.addressof(memory) + 15) & ~15
    del memory


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters as after ``import interop``, none loaded yet; put back afterwards."""
    monkeypatch.setattr(adapters, "_registered", {})
    monkeypatch.setattr(adapters, "_by_type", {})


class AcmeAdapter(Adapter):
    """Takes what an object of the library says of itself for a handle, whatever it is."""

    library = "acme"

    def stream_handle(self, stream):
        return getattr(stream, "raw_stream", None)

    def event_handle(self, event):
        return getattr(event, "raw_event", None)


@pytest.fixture
def acme(registry: None, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A library ``acme``, loaded and registered: ``Stream(raw)`` and ``Event(raw)`` hold their handle."""
    module = types.ModuleType("acme")
    for name in ("stream", "event"):
        cls = type(name.capitalize(), (), {"__module__": "acme", "__init__": _holder(f"raw_{name}")})
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "acme", module)
    interop.register("acme", AcmeAdapter())
    return module


def _holder(attribute: str) -> Callable[[object, object], None]:
    def init(self: object, raw: object) -> None:
        setattr(self, attribute, raw)

    return init


@pytest.fixture(scope="session")
def python() -> Callable[..., object]:
    """Run code in a new interpreter, with the variables given; what it printed, as JSON."""
    path = os.pathsep.join([str(Path(interop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(code: str, **variables: str) -> object:
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
