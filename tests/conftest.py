"""What the tests share: memory to borrow, a library that does not exist, other interpreters."""

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
    """The GPU suite runs when it is named, and not with the rest."""
    gpu = Path(__file__).with_name("gpu")
    named = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return True if collection_path == gpu and not any(path.resolve().is_relative_to(gpu) for path in named) else None


# What changes how pytest and rich print, in this process and in those that tests start; no test sees it.
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
    """The address of live, readable memory that is no stream: good for all that does not reach CUDA."""
    memory = ctypes.create_string_buffer(1024)
    yield (ctypes.addressof(memory) + 15) & ~15
    del memory


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The adapters as after ``import interop``, none loaded yet; put back afterwards."""
    monkeypatch.setattr(adapters, "_registered", {})
    monkeypatch.setattr(adapters, "_switched", {})
    found = dict(adapters.by_type)
    adapters.by_type.clear()
    monkeypatch.setattr(adapters, "_with_stream", None)
    yield
    adapters.by_type.clear()
    adapters.by_type.update(found)


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
def driver(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A driver in C, for the extension to call."""
    from tests.native_stubs import Driver, compiled  # it imports cuda.bindings

    return Driver(compiled(tmp_path_factory.mktemp("driver")))


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


@pytest.fixture(scope="session")
def run_tests() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one file of tests in a folder, by a pytest of its own with our plugin, and no GPU in sight."""

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
