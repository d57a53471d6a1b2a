"""The libraries that interop knows, and how it finds the adapter of an object or a name.

The table below is complete and sorted; an adapter's file is imported only when an object of its library turns up, or
when the library is named. Other packages add their own library in one of two ways:

- an entry point in the group ``interop.adapters``, named after the library's import path, whose value is a subclass
  of :class:`~interop.adapters.base.Adapter`. It is loaded only when an object of that library turns up;
- :func:`register`, at run time.
"""

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Final

from interop._safety import forks
from interop._show import callsite
from interop.adapters.base import Adapter
from interop.adapters.table import TABLE, may_have_current_stream
from interop.errors import AdapterError, LibraryNotFoundError, NotSupportedError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

for _row in TABLE.values():
    callsite.BETWEEN.update((_row.name.partition(".")[0], *_row.modules))

_GROUP: Final = "interop.adapters"

_registered: dict[str, Adapter] = {}
by_type: Final[dict[type, tuple[Adapter, ...]]] = {}
"""What :func:`adapters_of` has found. For the extension in C."""
_with_stream: tuple[str, ...] | None = None
"""The names of the libraries that may have a current stream, if they were looked for."""
_registrations = 0
"""How often :func:`register` was called: what was looked for before is not remembered after it."""
_lock = forks.lock()


def register(library: str, adapter: Adapter) -> None:
    """Make *adapter* the one for *library*, for the rest of the process.

    Args:
        library: the import path of the library whose objects it understands.
        adapter: an instance of a subclass of :class:`interop.adapters.base.Adapter`.

    Raises:
        AdapterError: *library* has an adapter already, or *adapter* is not one for it. Nothing is changed.
    """
    if not isinstance(library, str) or not library:
        message = f"an adapter is registered for a library's import path, such as 'cuda.core'; got {library!r}"
        raise AdapterError(message)
    if not isinstance(adapter, Adapter):
        message = f"the adapter for {library!r} must be an instance of a subclass of Adapter, got {adapter!r}"
        raise AdapterError(message)
    global _registrations, _with_stream  # noqa: PLW0603  (both are changed under the lock)
    with _lock:
        if library in _registered or library in TABLE or library in _plugins():
            message = f"{library!r} has an adapter already; interop keeps the first one"
            raise AdapterError(message)
        _must_be_for(library, adapter)
        _registered[library] = adapter
        _registrations += 1
        _with_stream = None
        by_type.clear()


def known() -> list[str]:
    """The names of all libraries with an adapter, sorted, installed or not. Imports none of them."""
    return sorted({*TABLE, *_registered, *_plugins()})


def how_to_install(*libraries: str, cuda: str) -> str:
    """The command that installs libraries of the table, for a major version of CUDA."""
    return f"pip install {' '.join(TABLE[library].packages.format(cuda=cuda) for library in libraries)}"


def _cuda_major() -> str:
    """The major version of CUDA that cuda-bindings are for; the latest one if no package says that they are there."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (only for the message)

    try:
        return version("cuda-bindings").partition(".")[0]
    except PackageNotFoundError:
        return "13"


def is_loaded(library: str) -> bool:
    """Whether this process has imported *library*, and is done with that."""
    module = sys.modules.get(library)
    spec = getattr(module, "__spec__", None)
    if module is None or (spec is None and library in TABLE):
        return False  # without a specification it was not imported: tests put such stand-ins there
    # A library that is being imported right now is not loaded yet, and may be what called us.
    return not getattr(spec, "_initializing", False)


def origin(library: str) -> str:
    """Where the adapter of *library*, a known name, comes from, in words. Loads nothing."""
    if library in TABLE:
        return TABLE[library].adapter
    if points := _plugins().get(library):
        return ", ".join(
            f"{point.value} ({f'{point.dist.name} {point.dist.version}' if point.dist else 'an unknown package'})"
            for point in points
        )
    return f"registered: {type(_registered[library]).__qualname__}"


def adapters_of(obj: object) -> tuple[Adapter, ...]:
    """The adapters of the libraries that the classes of *obj* come from, the most derived class first.

    A user's subclass of a library's stream is found through its bases.
    """
    cls = type(obj)
    try:
        found = by_type.get(cls)
    except TypeError:  # its metaclass makes no hashable classes: it is looked for each time
        return _find_adapters(cls)
    if found is None:
        before = _registrations
        found = _find_adapters(cls)
        with _lock:
            if before == _registrations:
                by_type[cls] = found
    return found


def _find_adapters(cls: type) -> tuple[Adapter, ...]:
    libraries = dict.fromkeys(filter(None, (_library_of(base) for base in cls.__mro__)))
    return tuple(_usable_adapters(libraries))


def adapter_named(library: str) -> Adapter:
    """The adapter of *library*, which is imported if it was not yet.

    Raises:
        LibraryNotFoundError: interop does not know the name, or the library is not installed. If it is installed but
            its import fails, that failure is raised as it is.
    """
    if not isinstance(library, str):
        message = f"a library is named by its import path, such as 'cupy' or 'cuda.core'; got {library!r}"
        raise LibraryNotFoundError(message)
    adapter = _registered.get(library)
    if adapter is not None and is_loaded(library):
        return adapter
    names = known()
    if library not in names:
        import difflib  # noqa: PLC0415  (only for the message)

        close = difflib.get_close_matches(library, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."
        message = f"interop knows no library {library!r}; {hint} (interop.adapters.base tells how to add one)"
        raise LibraryNotFoundError(message)
    try:
        importlib.import_module(library)
        return _adapter(library)
    except ModuleNotFoundError as error:
        # Only if it is the library itself that is missing: anything else is a broken installation, and must show.
        if error.name is None or (error.name != library and not library.startswith(f"{error.name}.")):
            raise
        message = f"{library} is not installed"
        if library in TABLE:
            message += f": {how_to_install(library, cuda=_cuda_major())}"
        raise LibraryNotFoundError(message, name=library) from error


def with_current_stream(*, simulated: bool) -> list[Adapter]:
    """The adapters of all *loaded* libraries that have a current stream and can be used, on the GPU or *simulated*."""
    adapters = []
    for library in _candidates():
        module = sys.modules.get(library)
        if module is None:
            continue
        found = _switched.get(library)
        adapter = found[1] if found is not None and found[0] is module else _find_switched(library, module)
        if adapter is not None and adapter.simulated is simulated:
            adapters.append(adapter)
    return adapters


def _candidates() -> tuple[str, ...]:
    """The names of the libraries that may have a current stream."""
    global _with_stream  # noqa: PLW0603  (changed under the lock)
    names = _with_stream
    if names is None:
        with _lock:
            names = _with_stream = tuple(filter(may_have_current_stream, known()))
    return names


_switched: dict[str, tuple[ModuleType, Adapter | None]] = {}
"""The module of each library that was found to be loaded, and its adapter if it has a current stream, and a GPU."""


def _find_switched(library: str, module: ModuleType) -> Adapter | None:
    if not is_loaded(library):
        return None
    try:
        adapter = next(_usable_adapters([library]), None)
    except (AdapterError, ImportError) as error:
        # Nobody has named it, so it need not stand in the way of the others.
        warnings.warn(f"{library} is left out, its adapter cannot be loaded: {error}", RuntimeWarning, stacklevel=5)
        return None
    if adapter is not None and not (adapter.has_current_stream and adapter.usable()):
        adapter = None
    _switched[library] = module, adapter
    return adapter


def current_stream_adapter(library: str) -> Adapter:
    """The adapter of *library*, which must have a current stream.

    Raises:
        NotSupportedError: it has none; the message says what to do instead.
        LibraryNotFoundError: as :func:`adapter_named`.
    """
    module, adapter = _switched.get(library, (None, None)) if isinstance(library, str) else (None, None)
    if adapter is not None and module is sys.modules.get(library):
        return adapter
    adapter = adapter_named(library)
    if not adapter.has_current_stream:
        message = f"{library} has no current stream; {adapter.instead or 'pass the stream to each call'}"
        raise NotSupportedError(message)
    if is_loaded(library) and adapter.usable():
        _switched[library] = sys.modules[library], adapter
    return adapter


def _library_of(cls: type) -> str | None:
    """The longest known import path that the module of *cls* lies in."""
    path = cls.__module__
    while path and isinstance(path, str):
        if path in TABLE or path in _registered or path in _plugins():
            return path
        path = path.rpartition(".")[0]
    return None


def _usable_adapters(libraries: Iterable[str]) -> Iterator[Adapter]:
    """Their adapters, without those that find that a module of the user's only has the library's name."""
    for library in libraries:
        with contextlib.suppress(LibraryNotFoundError):
            yield _adapter(library)


def _adapter(library: str) -> Adapter:
    adapter = _registered.get(library)
    if adapter is None:
        # Not under the lock: this imports, and a thread that imports the same library may be about to come here.
        loaded = _load(library)
        with _lock:
            adapter = _registered.setdefault(library, loaded)
    return adapter


def _load(library: str) -> Adapter:
    points = _plugins().get(library, [])
    claims = [f"{point.value} of {point.dist.name if point.dist else 'an unknown package'}" for point in points]
    if library in TABLE:
        claims.append("interop itself")
    if len(claims) > 1:
        message = f"{len(claims)} adapters claim {library!r}: {', '.join(claims)}. Uninstall all but one."
        raise AdapterError(message)
    if library in TABLE:
        try:
            adapter: object = importlib.import_module(TABLE[library].adapter).ADAPTER
        except (ImportError, LibraryNotFoundError):
            raise
        except Exception as error:
            message = (
                f"the adapter for {library!r} cannot be loaded: {type(error).__name__}: {error}. Is the module "
                f"{library!r} in sys.modules the library itself, and a version that interop knows?"
            )
            raise AdapterError(message) from error
    else:
        try:
            adapter = points[0].load()
            if isinstance(adapter, type) and issubclass(adapter, Adapter):
                adapter = adapter()
        except Exception as error:
            message = f"the adapter for {library!r}, {claims[0]}, cannot be loaded: {type(error).__name__}: {error}"
            raise AdapterError(message) from error
    if not isinstance(adapter, Adapter):
        message = f"the adapter for {library!r}, {claims[0]}, is not a subclass of Adapter: {adapter!r}"
        raise AdapterError(message)
    _must_be_for(library, adapter)
    return adapter


def _must_be_for(library: str, adapter: Adapter) -> None:
    if adapter.library != library:
        message = f"the adapter for {library!r}, {adapter!r}, says that it is for {adapter.library!r}"
        raise AdapterError(message)


@functools.cache
def _plugins() -> Mapping[str, "list[EntryPoint]"]:
    """The entry points by library. Read once, when the first object or name has to be looked up; none is loaded."""
    from importlib.metadata import distributions  # noqa: PLC0415  (slow to import, and seldom needed)

    plugins: dict[str, list[EntryPoint]] = {}
    seen = set()
    for package in distributions():
        try:
            points = package.entry_points.select(group=_GROUP)
            if points and package.name not in seen:  # the first one on the path is the one that is imported
                seen.add(package.name)
                for point in points:
                    plugins.setdefault(point.name, []).append(point)
        except Exception as error:  # noqa: BLE001  (one broken package hides no other one)
            place = getattr(package, "_path", package)
            message = f"the metadata of a package cannot be read, and its adapters are left out: {place}: {error!r}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    return plugins
