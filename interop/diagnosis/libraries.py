"""The libraries: which are installed and loaded, their current streams, and which default stream each means by 0."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, Final

from interop import _cuda, adapters
from interop._core.borrowing import is_kept_alive
from interop._core.inspection import StreamFacts, look_at
from interop._core.switching import streams_in_use
from interop.adapters.base import Adapter
from interop.adapters.table import TABLE, may_have_current_stream
from interop.diagnosis.attempt import attempt
from interop.diagnosis.machine import has_context
from interop.diagnosis.packages import Packages
from interop.errors import InteropError, NotSupportedError
from interop.stream import ExternalStream, as_stream, new_stream

LEGACY: Final = "legacy"
PER_THREAD: Final = "per-thread"
NOT_LOADED: Final = "not loaded"

_SURVIVED: Final = 86
"""The exit status of a process that is still alive after it has tried to import a library."""
_LONGEST_IMPORT: Final = 120
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Library:
    """An installed library that interop has an adapter for.

    Attributes:
        name: its import path.
        distributions: the versions of its packages, by their names.
        loaded: whether this process has imported it.
        adapter: where its adapter comes from.
        null: which default stream it means by 0: ``"legacy"``, ``"per-thread"``, or None if that is not known.
        default: which default stream it uses if no stream is given; None if that is not known.
        current: its current stream, for the calling thread on the current device.
        remark: why there is no current stream, or why the library was not asked for it.
        round_trip: with ``probe``, whether a stream of interop's that is handed to it comes back equal; else None.
        failure: with ``probe``, why it cannot be imported; or what it raised when it was asked.
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


def look(packages: Packages, *, device: int | None, probe: bool) -> list[Library]:
    """Look at all installed libraries.

    Args:
        packages: the installed packages.
        device: the ordinal of the current device; None if there is none.
        probe: import the libraries that are not loaded, and let them set up what they need.
    """
    return [_look_at(name, packages, device, probe=probe) for name in adapters.known() if _is_installed(name)]


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    # To find cuda.core, Python imports cuda, which may be a module of the user's.
    return attempt(lambda: importlib.util.find_spec(name), None)[0] is not None


def _look_at(name: str, packages: Packages, device: int | None, *, probe: bool) -> Library:
    library = Library(
        name=name,
        distributions=_versions(name, packages),
        loaded=adapters.is_loaded(name),
        adapter=adapters.origin(name),
        null=null_stream(name),
        default=default_stream(name),
    )
    if probe and not library.loaded:
        if failure := _end_of_the_importer(name) or attempt(lambda: importlib.import_module(name), None)[1]:
            return replace(library, failure=f"cannot be imported: {failure}")
        library = replace(library, loaded=True)
    if not library.loaded:
        return replace(library, remark=NOT_LOADED)
    if not probe and not may_have_current_stream(name):
        return replace(library, remark="has no current stream")
    adapter, failure = attempt(lambda: adapters.adapter_named(name), None)
    if adapter and probe and device is not None:
        trip, failure = attempt(lambda: _round_trip(adapter), None)
        library = replace(library, round_trip=trip)
    if adapter and not failure:
        library, failure = attempt(lambda: _with_current(library, adapter, device, probe=probe), library)
    return replace(library, failure=failure)


def _end_of_the_importer(name: str) -> str:
    """How importing the library ends a process: killed, exited, or hung. Empty if the process survives."""
    if not sys.executable:
        return ""
    code = f"import os\ntry:\n    import {name}\nexcept BaseException:\n    pass\nos._exit({_SURVIVED})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        status = subprocess.run(  # noqa: S603  (this interpreter, and the name of an adapter)
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LONGEST_IMPORT,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return f"the import has not ended after {_LONGEST_IMPORT} s"
    if status == _SURVIVED:
        return ""
    return (
        f"it kills the process, by {signal.Signals(-status).name}" if status < 0 else f"it ends the process, {status}"
    )


def _with_current(library: Library, adapter: Adapter, device: int | None, *, probe: bool) -> Library:
    cuda = _cuda.active()
    remark = _reason_not_to_ask(adapter, cuda, device, probe=probe)
    if remark:
        return replace(library, remark=remark)
    return cuda.within(cuda.current_context(), _asked, library, adapter)


def _asked(library: Library, adapter: Adapter) -> Library:
    stream = as_stream(adapter.current_stream())
    # The equal stream of a `with` block around the call has an owner: PyTorch's answer has none.
    stream = next((ours for ours in streams_in_use() if ours == stream and is_kept_alive(ours)), stream)
    return replace(library, current=replace(look_at(stream), library=library.name))


def _reason_not_to_ask(adapter: Adapter, cuda: _cuda.Cuda, device: int | None, *, probe: bool) -> str:
    """Why the library is not asked for its current stream; empty if it can be asked."""
    if not adapter.has_current_stream:
        return "has no current stream"
    if adapter.simulated is (cuda.simulation is None):
        return "not asked: it is real, and a simulation runs" if cuda.simulation else "not asked: it is simulated"
    if device is None:
        return "not asked: no device can be used"
    if not probe and not has_context(cuda, device):
        return f"not asked: nothing has used device {device} yet"
    if not probe and not adapter.is_set_up(device):
        return "not asked: it has not used the GPU yet"
    return "" if adapter.usable() else "cannot use a GPU, as it is installed"


def _round_trip(adapter: Adapter) -> str:
    """Hand a stream to the library, and borrow it back."""
    if adapter.simulated is (_cuda.active().simulation is None) or not adapter.usable():
        return "not tried"
    stream = new_stream()
    try:
        native = stream.to(adapter.library)
    except NotSupportedError:
        return "takes no stream"
    except InteropError as error:
        return f"failed: {type(error).__name__}: {error}"
    # `to` keeps the object that it made; this borrows it as a new stream.
    again: Any = as_stream(native)
    return "ok" if isinstance(again, ExternalStream) and again == stream else f"failed: it came back as {again!r}"


def null_stream(name: str) -> str | None:
    """Which default stream the library means by 0, in this environment; None if that is not known."""
    return _in_this_environment(TABLE[name].null) if name in TABLE else None


def default_stream(name: str) -> str | None:
    """Which default stream the library's work goes to if no stream is named; None if that is not known."""
    return _in_this_environment(TABLE[name].default) if name in TABLE else None


def _in_this_environment(stream: str | None) -> str | None:
    """The default stream that a column of the table means, in this environment."""
    if stream is None:
        return None
    # A value that is not a number makes the library itself fail.
    is_set = stream and attempt(lambda: int(os.environ.get(stream, "0")), 0)[0]
    return PER_THREAD if is_set else LEGACY


def _versions(name: str, packages: Packages) -> dict[str, str]:
    listed = TABLE[name].distributions if name in TABLE else ()
    distributions = listed or sorted(set(packages.modules.get(name.partition(".")[0], [])))
    return {found: packages.versions[found] for found in distributions if found in packages.versions}
