"""Fixtures that several test files use: an address to borrow, an invented library, other processes."""

import ctypes
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interop
from interop import adapters
from interop.adapters.base import Adapter


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect the GPU suite only when the command line names it."""
    gpu = Path(__file__).with_name("gpu")
    named = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return True if collection_path == gpu and not any(path.resolve().is_relative_to(gpu) for path in named) else None


# These variables change what pytest and rich print. They are unset, also for the processes that tests start.
OUTPUT = ["CI", "BUILD_NUMBER", "PYTEST_ADDOPTS", "PY_COLORS", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"]
_environment = pytest.MonkeyPatch()


def pytest_sessionstart() -> None:
    for name in OUTPUT:
        _environment.delenv(name, raising=False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    _environment.undo()


@pytest.fixture
def address() -> Iterator[int]:
    """The address of readable memory that is no stream. It can be borrowed, but must not reach CUDA."""
    memory = ctypes.create_string_buffer(1024)
    yield (ctypes.addressof(memory) + 15) & ~15
    del memory


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No adapter is loaded, as after ``import interop``. The loaded ones come back after the test."""
    monkeypatch.setattr(adapters, "_registered", {})
    monkeypatch.setattr(adapters, "_switched", {})
    found = dict(adapters.by_type)
    adapters.by_type.clear()
    adapters._candidates.cache_clear()
    yield
    adapters._candidates.cache_clear()
    adapters.by_type.clear()
    adapters.by_type.update(found)


@pytest.fixture
def add_library(registry: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[Adapter], Adapter]:
    """A function that adds an invented library: an empty module, and the adapter, which it returns."""

    def add(adapter: Adapter) -> Adapter:
        monkeypatch.setitem(sys.modules, adapter.library, types.ModuleType(adapter.library))
        interop.register(adapter.library, adapter)
        return adapter

    return add


class AcmeAdapter(Adapter):
    """Returns an object's raw attribute as its handle, whatever that is."""

    library = "acme"

    def stream_handle(self, stream):
        return getattr(stream, "raw_stream", None)

    def event_handle(self, event):
        return getattr(event, "raw_event", None)


@pytest.fixture
def acme(registry: None, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An invented library ``acme``, imported and registered. ``Stream(raw)`` and ``Event(raw)`` hold their handle."""
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
def driver(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The stubs of the driver, compiled."""
    from tests.native_stubs import Driver, compiled  # imports cuda.bindings

    return Driver(compiled(tmp_path_factory.mktemp("driver")))


@pytest.fixture(scope="session")
def python() -> Callable[..., object]:
    """A function that runs code in a new process with environment variables, and returns the JSON that it prints."""
    path = os.pathsep.join([str(Path(interop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(code: str, **variables: str) -> object:
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def run_tests() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs code as a test file, by pytest in a new process, with interop's plugin and without a GPU."""

    def run(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
        (folder / "test_it.py").write_text(code)
        path = os.pathsep.join([str(Path(interop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [
                *[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"],
                *[
                    "-p",
                    "interop.pytest_plugin",
                    "-c",
                    os.devnull,
                    f"--rootdir={folder}",
                    "--strict-markers",
                    *options,
                    "test_it.py",
                ],
            ],
            cwd=folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
