"""A ledger, open for the length of a block, and told of what the libraries that are there do."""

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator

from interop import _cudart, _watch
from interop.errors import NotSupportedError
from interop.ledger.ledger import WATCHED, Ledger


@contextlib.contextmanager
def watched(*, strict: bool, raises: bool) -> Iterator[Ledger]:
    """Watch what the block does; see :func:`interop.ordering.check`."""
    ledger = Ledger(strict=strict)
    with contextlib.ExitStack() as undo:
        if _cudart.active().simulation is None:
            undo.enter_context(_patching())
            for library, module in (("bindings", "cuda.bindings"), *WATCHED.items()):
                if module in sys.modules:
                    undo.enter_context(_eyes(library)(ledger))
        _watch.watch(ledger)
        undo.callback(_watch.unwatch, ledger)
        yield ledger
    if raises and (races := ledger.races):
        raise races[0].error(races[1:])


_patched: list[int] = []
"""The threads that watch libraries, the innermost last: nested in one thread, or none."""


@contextlib.contextmanager
def _patching() -> Iterator[None]:
    """Keep other threads from replacing methods that this one will put back."""
    thread = threading.get_ident()
    if _patched and _patched[-1] != thread:
        message = "another thread has a ledger open: it sees all threads; use that one, or open this one after it"
        raise NotSupportedError(message)
    _patched.append(thread)
    try:
        yield
    finally:
        _patched.pop()


def _eyes(library: str) -> Callable[[Ledger], contextlib.AbstractContextManager[None]]:
    watch: Callable[[Ledger], contextlib.AbstractContextManager[None]] = importlib.import_module(
        f"interop.ledger.{library}"
    ).watch
    return watch
