"""How interop finds the adapter of an object or of a name.

interop's own libraries are in :data:`~interop.adapters.table.TABLE`. An adapter is imported when an object of its
library is borrowed, or when a call names the library. Other packages add a library in one of two ways:

- an entry point in the group ``interop.adapters``, named after the library's import path. Its value is a subclass of
  :class:`~interop.adapters.base.Adapter`, which is loaded when it is needed;
- :func:`register`, at run time.
"""

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from interop._safety import forks
from interop._show import callsite
from interop._show.text import described, exact_str
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
"""The results of :func:`adapters_of`. The extension in C reads them too."""
_registrations = 0
"""The number of calls of :func:`register`. What another thread has looked up before one is not kept after it."""
_lock = forks.lock()


def register(library: str, adapter: Adapter) -> None:
    """Use *adapter* for *library*, for the rest of the process.

    Example::

        from interop.adapters.base import Adapter

        class AcmeAdapter(Adapter):
            library = "acme"

            def stream_handle(self, obj):
                return getattr(obj, "acme_address", None)  # None: not a stream of acme

        interop.register("acme", AcmeAdapter())

    Args:
        library: the import path of the library whose objects it understands.
        adapter: an instance of a subclass of :class:`interop.adapters.base.Adapter`.

    Raises:
        AdapterError: *library* has an adapter already, or *adapter* is not for *library*. Nothing is changed.
    """
    library = exact_str(library) or library
    if type(library) is not str or library == "":
        message = f"an adapter is registered for a library's import path, such as 'cuda.core'; got {described(library)}"
        raise AdapterError(message)
    if not issubclass(type(adapter), Adapter):
        message = f"the adapter for {library!r} must be an instance of a subclass of Adapter, got {described(adapter)}"
        raise AdapterError(message)
    global _registrations  # noqa: PLW0603  (changed under the lock)
    with _lock:
        if library in _registered or library in TABLE or library in _plugins():
            message = f"{library!r} has an adapter already; interop keeps the first one"
            raise AdapterError(message)
        _must_be_for(library, adapter)
        _registered[library] = adapter
        _registrations += 1
        by_type.clear()


def known() -> list[str]:
    """The sorted names of all libraries with an adapter, also of those not installed. Imports no library."""
    return sorted({*TABLE, *_registered, *_plugins()})


def how_to_install(*libraries: str, cuda: str) -> str:
    """The command that installs libraries of the table for the major version *cuda*."""
    return f"pip install {' '.join(TABLE[library].packages.format(cuda=cuda) for library in libraries)}"


def _cuda_major() -> str:
    """The major version of CUDA that the installed cuda-bindings are for; the latest one if none are installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (only for the message)

    try:
        return version("cuda-bindings").partition(".")[0]
    except PackageNotFoundError:
        return "13"


def is_loaded(library: str) -> bool:
    """Whether this process has imported *library* completely."""
    module = sys.modules.get(library)
    spec = getattr(module, "__spec__", None)
    if module is None or (spec is None and library in TABLE):
        return False  # a module without a spec was not imported: it is a stand-in of some test
    # A library that is still being imported may have called interop.
    return not getattr(spec, "_initializing", False)


def origin(library: str) -> str:
    """Where the adapter of *library*, which must be a known name, comes from, for a report. Loads nothing."""
    if library in TABLE:
        return TABLE[library].adapter
    if points := _plugins().get(library):
        return ", ".join(
            f"{point.value} ({f'{point.dist.name} {point.dist.version}' if point.dist else 'an unknown package'})"
            for point in points
        )
    return f"registered: {type(_registered[library]).__qualname__}"


def adapters_of(obj: object) -> tuple[Adapter, ...]:
    """The adapters of the libraries that define the class of *obj* and its bases, the most derived class first.

    So an object of a user's subclass of a library's stream is found by the base.
    """
    cls = type(obj)
    try:
        found = by_type.get(cls)
    except Exception:  # noqa: BLE001  (the class cannot be hashed, and is looked up each time)
        return _find_adapters(cls)
    if found is None:
        before, found = _registrations, _find_adapters(cls)
        with _lock:
            if before == _registrations:
                by_type[cls] = found
    return found


def _find_adapters(cls: type) -> tuple[Adapter, ...]:
    libraries = dict.fromkeys(filter(None, (_library_of(base) for base in cls.__mro__)))
    return tuple(_usable_adapters(libraries))


def library_name(library: object) -> str:
    """The name that a call gives for a library: an exact str, whose methods are Python's own.

    Raises:
        LibraryNotFoundError: it is no str.
    """
    name = exact_str(library)
    if name is None:
        message = f"a library is named by its import path, such as 'cupy' or 'cuda.core'; got {described(library)}"
        raise LibraryNotFoundError(message)
    return name


def adapter_named(library: str) -> Adapter:
    """The adapter of *library*. Imports the library.

    Raises:
        LibraryNotFoundError: interop does not know the name, or the library is not installed. If the library is
            installed but its import fails, the error of the import is raised unchanged.
    """
    if type(library) is not str:
        library = library_name(library)
    adapter = _registered.get(library)
    if adapter is not None and is_loaded(library):
        return adapter
    names = known()
    if library not in names:
        import difflib  # noqa: PLC0415  (only for the message)

        close = difflib.get_close_matches(library.lower(), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."
        message = f"interop knows no library {library!r}; {hint} (interop.adapters.base tells how to add one)"
        raise LibraryNotFoundError(message)
    try:
        importlib.import_module(library)
        return _adapter(library)
    except ModuleNotFoundError as error:
        # Only if the library itself is missing: a library that lacks another module is broken, and its error must show.
        if error.name is None or (error.name != library and not library.startswith(f"{error.name}.")):
            raise
        message = f"{library} is not installed"
        if library in TABLE:
            message += f": {how_to_install(library, cuda=_cuda_major())}"
        raise LibraryNotFoundError(message, name=library) from error


def with_current_stream(*, simulated: bool) -> list[Adapter]:
    """The adapters of all *loaded* and usable libraries with a current stream: real ones, or *simulated* ones."""
    adapters = []
    for library in _candidates(_registrations):
        if library in sys.modules:
            adapter = _switched[library] if library in _switched else _find_switched(library)
            if adapter is not None and adapter.simulated is simulated:
                adapters.append(adapter)
    return adapters


@functools.lru_cache(maxsize=1)
def _candidates(registrations: int) -> tuple[str, ...]:  # noqa: ARG001  (what is found is of that time)
    """The names of the libraries that may have a current stream, after so many calls of :func:`register`."""
    return tuple(filter(may_have_current_stream, known()))


_switched: dict[str, Adapter | None] = {}
"""The adapter of each loaded library that has a current stream and can use a GPU; None for the other loaded ones."""


def _find_switched(library: str) -> Adapter | None:
    if not is_loaded(library):
        return None
    try:
        adapter = next(_usable_adapters([library]), None)
    except (AdapterError, ImportError) as error:
        # The user has not named this library, so it does not stop the others.
        warnings.warn(f"{library} is left out, its adapter cannot be loaded: {error}", RuntimeWarning, stacklevel=5)
        return None
    if adapter is not None and not (adapter.has_current_stream and adapter.usable()):
        adapter = None
    _switched[library] = adapter
    return adapter


def ready(library: str) -> Adapter | None:
    """The adapter of a library that has a current stream and is known to be usable; None if that is not known yet."""
    return _switched.get(library)


def current_stream_adapter(library: str) -> Adapter:
    """The adapter of *library*, which must have a current stream.

    Raises:
        NotSupportedError: the library has no current stream. The message says what to do instead.
        LibraryNotFoundError: as for :func:`adapter_named`.
    """
    if type(library) is not str:
        library = library_name(library)
    adapter = _switched.get(library)
    if adapter is not None:
        return adapter
    adapter = adapter_named(library)
    if not adapter.has_current_stream:
        message = f"{library} has no current stream; {adapter.instead or 'pass the stream to each call'}"
        raise NotSupportedError(message)
    if is_loaded(library) and adapter.usable():
        _switched[library] = adapter
    return adapter


def _library_of(cls: type) -> str | None:
    """The name of the library in which the class is defined: the longest known prefix of its module's path."""
    path = cls.__module__
    while path and isinstance(path, str):
        if path in TABLE or path in _registered or path in _plugins():
            return path
        path = path.rpartition(".")[0]
    return None


def _usable_adapters(libraries: Iterable[str]) -> Iterator[Adapter]:
    """The adapters of *libraries*, without those which find that the module only has the name of their library."""
    for library in libraries:
        with contextlib.suppress(LibraryNotFoundError):
            yield _adapter(library)


def _adapter(library: str) -> Adapter:
    adapter = _registered.get(library)
    if adapter is None:
        # Not under the lock, because this imports: a thread that is importing the same library may call this function.
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
    try:
        own = library in TABLE
        adapter = importlib.import_module(TABLE[library].adapter).ADAPTER if own else points[0].load()
        if isinstance(adapter, type) and issubclass(adapter, Adapter):
            adapter = adapter()
    except Exception as error:
        if own and isinstance(error, ImportError):
            raise
        whose = "" if own else f", {claims[0]},"
        message = f"the adapter for {library!r}{whose} cannot be loaded: {type(error).__name__}: {error}"
        if own:
            message += f". Is the module {library!r} in sys.modules the library, in a version that interop knows?"
        raise AdapterError(message) from error
    if not isinstance(adapter, Adapter):
        message = f"the adapter for {library!r}, {claims[0]}, is not a subclass of Adapter: {adapter!r}"
        raise AdapterError(message)
    _must_be_for(library, adapter)
    return adapter


def _must_be_for(library: str, adapter: Adapter) -> None:
    if exact_str(adapter.library) != library:
        message = f"the adapter for {library!r}, {described(adapter)}, says that it is for {described(adapter.library)}"
        raise AdapterError(message)


@functools.cache
def _plugins() -> Mapping[str, "list[EntryPoint]"]:
    """The entry points by library. Read once, at the first look-up of an object or name. Loads none of them."""
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
