"""The libraries: which are installed, which are loaded, what their current streams are, what 0 means to them."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from interop import _cudart, adapters
from interop._switching import streams_in_use
from interop.adapters.base import Adapter
from interop.errors import InteropError, NotSupportedError
from interop.inspection import StreamFacts, is_kept_alive, look_at
from interop.stream import ExternalStream, as_stream, new_stream

BINDINGS_VARIABLE: Final = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"
CUPY_VARIABLE: Final = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"

LEGACY: Final = "legacy"
PER_THREAD: Final = "per-thread"

# What a plain look at the package's own name would not find.
_DISTRIBUTIONS: Final = {"cuda.core": ["cuda-core"], "numba": ["numba", "numba-cuda"]}

# By its adapter, but known without loading it; tests/test_diagnosis.py compares the two.
_NULL: Final = {"cupy": LEGACY, "rmm": LEGACY, "torch": LEGACY, "warp": LEGACY}
_NULL_OF_BINDINGS: Final = frozenset({"cuda.core", "numba"})


@dataclass(frozen=True, slots=True)
class Library:
    """One library that interop has an adapter for, and that is installed.

    Attributes:
        name: its import path.
        distributions: versions of the packages that it was installed by, by their names.
        loaded: whether this process has imported it.
        adapter: where interop's knowledge of it comes from.
        null: which default stream it means by 0: ``"legacy"``, ``"per-thread"``, or None where that is not known.
        default: which default stream new work goes to where nobody says otherwise; None where that is not known.
        current: its current stream, for the calling thread on the current device.
        remark: why there is none, or why it was not asked.
        round_trip: with ``probe``, whether a stream of ours comes back as itself; else None.
        failure: with ``probe``, why it cannot be imported; or what it raised when asked.
    """

    name: str
    distributions: dict[str, str]
    loaded: bool
    adapter: str
    null: str | None
    default: str | None
    current: StreamFacts | None = None
    remark: str = ""
    round_trip: str | None = None
    failure: str = ""


def look(*, device: int | None, probe: bool) -> list[Library]:
    """Look at all that are installed.

    Args:
        device: the ordinal of the current device; None if there is none.
        probe: import those that are not, and let them set up what they need.
    """
    packages = importlib.metadata.packages_distributions()
    return [_look_at(name, packages, device, probe=probe) for name in adapters.known() if _is_installed(name)]


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _look_at(name: str, packages: Mapping[str, list[str]], device: int | None, *, probe: bool) -> Library:
    library = Library(
        name=name,
        distributions=_versions(name, packages),
        loaded=adapters.is_loaded(name),
        adapter=adapters.origin(name),
        null=null_stream(name),
        default=default_stream(name),
    )
    if probe and not library.loaded:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it, the others are looked at)
            return replace(library, failure=f"cannot be imported: {type(error).__name__}: {error}")
        library = replace(library, loaded=True)
    if not library.loaded:
        return replace(library, remark="not loaded")
    if name in adapters.WITHOUT_CURRENT_STREAM and not probe:
        return replace(library, remark="has no current stream")
    try:
        adapter = adapters.adapter_named(name)
        if probe and device is not None:
            library = replace(library, round_trip=_round_trip(adapter))
        return _with_current(library, adapter, device, probe=probe)
    except Exception as error:  # noqa: BLE001  (likewise)
        return replace(library, failure=f"{type(error).__name__}: {error}")


def _with_current(library: Library, adapter: Adapter, device: int | None, *, probe: bool) -> Library:
    cuda = _cudart.active()
    remark = _reason_not_to_ask(adapter, cuda, device, probe=probe)
    if remark:
        return replace(library, remark=remark)
    with cuda.context(cuda.current_context()):
        stream = _by_its_owner(as_stream(adapter.current_stream()))
        return replace(library, current=replace(look_at(stream), library=library.name))


def _by_its_owner(stream: ExternalStream) -> ExternalStream:
    """The same stream as a ``with`` block around the call has it: PyTorch answers with objects that own nothing."""
    return next((ours for ours in streams_in_use() if ours == stream and is_kept_alive(ours)), stream)


def _reason_not_to_ask(adapter: Adapter, cuda: _cudart.Cuda, device: int | None, *, probe: bool) -> str:
    """Why the library's current stream is not asked for; empty if it can be."""
    if not adapter.has_current_stream:
        return "has no current stream"
    if adapter.simulated is (cuda.simulation is None):
        return "not asked: it is real, and a simulation runs" if cuda.simulation else "not asked: it is simulated"
    if device is None:
        return "not asked: no device can be used"
    if not probe and not cuda.has_context(device):
        return f"not asked: nothing has used device {device} yet"
    if not probe and not adapter.is_set_up(device):
        return "not asked: it has not used the GPU yet"
    return "" if adapter.usable() else "cannot use a GPU, as it is installed"


def _round_trip(adapter: Adapter) -> str:
    """Hand a stream out as the library's own, and borrow it back."""
    if adapter.simulated is (_cudart.active().simulation is None) or not adapter.usable():
        return "not tried"
    stream = new_stream()
    try:
        native = stream.to(adapter.library)
    except NotSupportedError:
        return "takes no stream"
    except InteropError as error:
        return f"failed: {type(error).__name__}: {error}"
    # By another object: the first would give the very object that it was made of.
    again: Any = as_stream(native)
    return "ok" if isinstance(again, ExternalStream) and again == stream else f"failed: it came back as {again!r}"


def null_stream(name: str) -> str | None:
    """Which default stream the library means by 0, in this environment; None where that is not known."""
    if name in _NULL_OF_BINDINGS:
        return PER_THREAD if _is_set(BINDINGS_VARIABLE) else LEGACY
    return _NULL.get(name)


def default_stream(name: str) -> str | None:
    """Which default stream work of the library goes to by itself; None where that is not known."""
    if name == "cupy":
        return PER_THREAD if _is_set(CUPY_VARIABLE) else LEGACY
    return null_stream(name) if name != "warp" else None  # Warp makes a stream of its own for every device


def _is_set(variable: str) -> bool:
    value = os.environ.get(variable, "0")
    return value.strip().lstrip("+-").isdigit() and int(value) != 0


def _versions(name: str, packages: Mapping[str, list[str]]) -> dict[str, str]:
    distributions = _DISTRIBUTIONS.get(name) or sorted(set(packages.get(name.partition(".")[0], [])))
    found = {}
    for distribution in distributions:
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
