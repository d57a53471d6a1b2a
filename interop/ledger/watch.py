"""A ledger, open for the length of a block, and told of what the libraries that are there do."""

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final

from interop import _cudart, _watch
from interop.errors import NotSupportedError
from interop.ledger.ledger import WATCHED, Ledger

_EYES: Final = {"bindings": "cuda.bindings", "cuda_core": "cuda.core", "warp": "warp", **WATCHED}
"""Those who look at libraries, by a module of that name here; and what is imported when there is something to see."""


class Watched(contextlib.AbstractContextManager[Ledger]):
    """Watches what the block does; see :func:`interop.ordering.check`. Each block has a ledger of its own."""

    def __init__(self, *, strict: bool, raises: bool) -> None:
        """Watch nothing yet."""
        self._new = functools.partial(_watched, strict=strict, raises=raises)
        self._blocks: list[tuple[Ledger, contextlib.AbstractContextManager[Ledger]]] = []

    def __enter__(self) -> Ledger:
        """Open a ledger."""
        block = self._new()
        ledger = block.__enter__()
        self._blocks.append((ledger, block))
        return ledger

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close the one that was opened last.

        Raises:
            NotSupportedError: another thread has opened it, outside of a simulation. It is still open.
        """
        ledger, block = self._blocks[-1]
        _all.check_thread(ledger)
        self._blocks.pop()
        return block.__exit__(kind, error, trace)


@contextlib.contextmanager
def _watched(*, strict: bool, raises: bool) -> Iterator[Ledger]:
    ledger = Ledger(strict=strict)
    with contextlib.ExitStack() as undo:
        if _cudart.active().simulation is None:
            undo.enter_context(_all.telling(ledger))
        _watch.watch(ledger)
        undo.callback(_watch.unwatch, ledger)
        yield ledger
    if raises and (races := ledger.races):
        raise races[0].error(races[1:])


class _All:
    """All ledgers that are open, as one that is told what libraries do.

    Their methods are replaced when the first ledger is opened, and put back when the last one is closed, both in one
    thread: so the blocks of two tasks of asyncio may end in any order, and those of two threads come one after another.
    """

    def __init__(self) -> None:
        self._ledgers: list[Ledger] = []
        self._thread = 0
        self._libraries: set[str] = set()
        self._undo = contextlib.ExitStack()

    def check_thread(self, ledger: Ledger) -> None:
        """Make sure that *ledger*, if it is one of them, is the calling thread's: some libraries are watched there."""
        if ledger in self._ledgers and self._thread != threading.get_ident():
            message = "another thread has opened this ledger, and has to close it: it is still open"
            raise NotSupportedError(message)

    @contextlib.contextmanager
    def telling(self, ledger: Ledger) -> Iterator[None]:
        """Tell *ledger*, too."""
        if not self._ledgers:
            self._thread = threading.get_ident()
        elif self._thread != threading.get_ident():
            message = "another thread has a ledger open: it sees all threads; use that one, or open this one after it"
            raise NotSupportedError(message)
        self._ledgers.append(ledger)
        try:
            for library, module in _EYES.items():
                if module in sys.modules and library not in self._libraries:
                    self._undo.enter_context(_eyes(library)(self))
                    self._libraries.add(library)
            yield
        finally:
            self._ledgers.remove(ledger)
            if not self._ledgers:
                self._libraries.clear()
                self._undo.close()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The method of that name, of all of them."""

        def tell(*arguments: object) -> None:
            for ledger in list(self._ledgers):
                getattr(ledger, name)(*arguments)

        return tell


_all: Final = _All()


def _eyes(library: str) -> Callable[[_All], contextlib.AbstractContextManager[None]]:
    watch: Callable[[_All], contextlib.AbstractContextManager[None]] = importlib.import_module(
        f"interop.ledger.{library}"
    ).watch
    return watch
