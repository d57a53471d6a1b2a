"""A ledger that is open for the length of a ``with`` block, and the libraries that are observed meanwhile."""

import importlib
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from interop import _cuda
from interop._order import watchers
from interop._safety.blocks import Block
from interop.errors import NotSupportedError
from interop.ledger.ledger import Ledger
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import OBSERVED

if TYPE_CHECKING:
    from interop.ledger.driver.watch import Watch, Window

_MODULES: Final = {"bindings": "cuda.bindings", "cuda_core": "cuda.core", "warp": "warp", **OBSERVED}
"""For each module of :mod:`interop.ledger.libraries`, the module that is imported when there is something to see."""


def check(*, strict: bool = False, raises: bool = True, eye: Literal["driver", "libraries"] | None = None) -> "Watched":
    """Watch every record, wait, synchronize and hand-over in a ``with`` block, and report what nothing orders.

    Example::

        with interop.sim.simulate() as gpu:  # or real streams and arrays
            producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
            x = gpu.array([0.0], name="x")
            with interop.ordering.check() as ledger:
                ledger.writes(x, producer)  # say so before each kernel that cannot be seen
                interop.as_stream(consumer).wait_stream(producer)  # without this line: RaceError
                ledger.reads(x, consumer)

    See :mod:`interop.ledger` for what is seen, what is not, and what is reported.

    Args:
        strict: whether to raise where the second of two unordered accesses is made, if possible before it is.
        raises: whether to raise at the end of the block if there were races and nothing else was raised.
        eye: what to look through. ``"driver"``: every call that the process makes of the driver is recorded, whatever
            library makes it, and judged when somebody asks, or when the block ends. ``"libraries"``: what interop and
            the observed libraries report, and what the program declares. By default the driver's eye, if it is opened
            before CUDA is in use, and can be; else the libraries'. ``ledger.eye`` says which, and why.

    Raises:
        ValueError: *eye* is something else; or it is ``"driver"``, and *strict* is true: the driver's calls are judged
            after they were made.
        RaceError: nothing orders two accesses of one array, of which at least one is a write.
        NotSupportedError: another thread has a ledger open, or closes this one, outside of a simulation. Or *eye* is
            ``"driver"``, and the driver's eye cannot be opened; the error says why, and what to do.
    """
    if eye not in ("driver", "libraries", None):
        message = f'eye is "driver", "libraries" or None; got {eye!r}'
        raise ValueError(message)
    if strict and eye == "driver":
        message = 'strict=True raises where an access is made; the driver\'s eye judges afterwards: use eye="libraries"'
        raise ValueError(message)
    return Watched(strict=strict, raises=raises, eye=eye)


class Watched(Block[Ledger]):
    """The block of :func:`interop.ordering.check`. Each time it is entered, it opens a new ledger.

    A signal handler may raise anywhere. In ``__enter__`` and ``__exit__`` that closes the ledger. If it raises before
    the first line of ``__exit__``, the ledger stays open until this object is gone.
    """

    _call = "check"

    def __init__(self, *, strict: bool, raises: bool, eye: str | None) -> None:
        self._strict = strict
        self._eye = eye
        self._raises = raises
        self._opened = _Opened()
        self._entered = False

    def __enter__(self) -> Ledger:
        self._entered = True
        watch, eye = self._look()
        ledger = Ledger(strict=self._strict, watch=watch, eye=eye)
        try:
            self._opened.add(ledger)
            return ledger  # noqa: TRY300  (so that an interrupt just before it closes the ledger too)
        except BaseException:
            self._opened.close(ledger)
            raise

    def _look(self) -> "tuple[Window | Watch | None, str]":
        """What records the driver's calls, if that is to be; and which eye it is, and why."""
        if self._eye == "libraries":
            return None, "libraries"
        if _cuda.active().simulation is not None:
            return None, "libraries: the driver has no part in a simulation"
        if self._strict:
            return None, "libraries: strict=True raises where an access is made"
        from interop.ledger.driver import watch as driver  # noqa: PLC0415  (most ledgers need none)

        if not driver.shared and self._eye is None and (why := driver.why_late()):
            return None, f"libraries: {why}"
        watch = driver.Window(driver.shared[0]) if driver.shared else driver.Watch()
        try:
            watch.open()
        except driver.EyeShut as shut:
            if self._eye == "driver":
                raise
            return None, f"libraries: {shut}"
        return watch, "driver"

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the ledger that was opened last.

        Raises:
            NotSupportedError: another thread has opened it, outside of a simulation. It is still open.
        """
        ledger = self._opened.ledgers[-1]
        _all.check_thread(ledger)
        try:
            self._opened.close(ledger)
        except BaseException:
            self._opened.close(ledger)
            raise
        if error is None and self._raises and (races := ledger.races):
            raise races[0].error(races[1:])


class _Opened:
    """The ledgers that one :class:`Watched` has open."""

    ledgers: tuple[Ledger, ...] = ()

    def add(self, ledger: Ledger) -> None:
        """Open one more."""
        self.ledgers = (*self.ledgers, ledger)
        if ledger._watch is not None:
            return
        if _cuda.active().simulation is None:
            _all.add(ledger)
        watchers.watch(ledger)

    def close(self, ledger: Ledger) -> None:
        """Close *ledger*, if it is open. So the call may be interrupted, and repeated."""
        if ledger._watch is not None:
            ledger._watch.close()
        watchers.unwatch(ledger)
        _all.remove(ledger)
        self.ledgers = tuple(other for other in self.ledgers if other is not ledger)

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close what an interrupt has left open."""
        if self.ledgers and not _finalizing():
            for ledger in self.ledgers:
                self.close(ledger)


class _All:
    """All open ledgers, as one ledger for the observers: a call of any other method calls that method of each ledger.

    The first ledger that is opened replaces the libraries' methods, and the last one that is closed puts them back, in
    one thread. So blocks of two asyncio tasks may end in any order, and blocks of two threads come one after another.
    """

    def __init__(self) -> None:
        self._ledgers: list[Ledger] = []
        self._thread = 0
        self._libraries: set[str] = set()
        self._patches = Patches()

    def check_thread(self, ledger: Ledger) -> None:
        """Refuse if another thread has opened *ledger*: some libraries are observed in one thread only."""
        if ledger in self._ledgers and self._thread != threading.get_ident():
            message = "another thread has opened this ledger, and has to close it: it is still open"
            raise NotSupportedError(message)

    def add(self, ledger: Ledger) -> None:
        """Add *ledger*. If this raises, :meth:`remove` it."""
        if not self._ledgers:
            self._thread = threading.get_ident()
        elif self._thread != threading.get_ident():
            message = "another thread has a ledger open: it sees all threads; use that one, or open this one after it"
            raise NotSupportedError(message)
        self._ledgers.append(ledger)
        for library, module in _MODULES.items():
            if module in sys.modules and library not in self._libraries:
                before = len(self._patches)
                try:
                    importlib.import_module(f"interop.ledger.libraries.{library}").observe(self, self._patches)
                    self._libraries.add(library)
                except BaseException:
                    self._libraries.discard(library)
                    self._patches.undo(before)
                    raise

    def remove(self, ledger: Ledger) -> None:
        """Remove *ledger*, if it is there."""
        if ledger in self._ledgers:
            self._ledgers.remove(ledger)
        if not self._ledgers:
            self._libraries.clear()
            self._patches.undo()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call_each(*arguments: object) -> None:
            for ledger in list(self._ledgers):
                getattr(ledger, name)(*arguments)

        return call_each


_all: Final = _All()
