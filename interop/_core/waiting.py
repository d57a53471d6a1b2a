"""``await stream``, ``await event``, ``stream.when_done(callback)``: asyncio waits for the GPU, without a thread.

CUDA has no file descriptor that a loop could sleep on, and its host callbacks can deadlock with the GIL. So events are
asked, by one :class:`_Poller` a loop, whatever the number of those who wait: with pauses that grow with the time
waited, and for a small part of the loop's time at most.
"""

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final, TypeVar

from interop._show.text import described
from interop.errors import NotSupportedError

if TYPE_CHECKING:
    from interop.event import Event

T = TypeVar("T")

# The timers of asyncio on epoll, and of uvloop, count in milliseconds.
_SHORTEST_PAUSE: Final = 1e-3
_LONGEST_PAUSE: Final = 5e-3
_GROWTH: Final = 1 / 8
"""The next pause, as a part of the time that has passed since somebody began to wait."""
_REST: Final = 19
"""The next pause is at least as many times as long as the last round of questions: asking takes a twentieth at most."""


class _Poller:
    """Asks, for one loop, on behalf of all who wait in it. Its timer keeps it alive, for as long as anybody waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Future[None], Event] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._spent = 0.0

    def wait_for(self, event: "Event") -> "asyncio.Future[None]":
        """A future that is done when *event* is; cancelling it is all there is to leaving."""
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(self._leave)
        self._waiting[future] = event
        # Whoever has just come is answered soon, however long the others have waited.
        self._since = self._loop.time()
        self._schedule()
        return future

    def _schedule(self) -> None:
        now = self._loop.time()
        pause = min(max((now - self._since) * _GROWTH, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        due = now + max(pause, self._spent * _REST)
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # or else those who keep coming would put it off for ever
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._ask)

    def _ask(self) -> None:
        """Ask about every event once, and set another timer if anybody still waits."""
        self._timer = None
        start = self._loop.time()
        try:
            for future, event in list(self._waiting.items()):
                if future.done():
                    continue  # cancelled, and `_leave` is about to be told
                try:
                    if event.query():
                        future.set_result(None)
                except Exception as error:  # noqa: BLE001  (whatever it is, it is the awaiter's)
                    future.set_exception(error)
        finally:
            self._spent = self._loop.time() - start
            if not all(future.done() for future in self._waiting):
                self._schedule()

    def _leave(self, future: "asyncio.Future[None]") -> None:
        del self._waiting[future]
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None


# Weak on both sides: a loop that was closed while somebody waited is garbage, and so is its poller.
_pollers: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Poller]]] = (
    weakref.WeakKeyDictionary()
)


def _poller_of(loop: asyncio.AbstractEventLoop) -> _Poller:
    reference = _pollers.get(loop)
    poller = reference() if reference else None
    if poller is None:
        poller = _Poller(loop)
        _pollers[loop] = weakref.ref(poller)
    return poller


async def done(event: "Event") -> None:
    """Wait until *event* is done, while the loop runs on.

    Raises:
        NotSupportedError: no asyncio loop runs this coroutine.
        UnrecordedEventError, CaptureError, CudaError: as :meth:`interop.Event.query`.
    """
    loop = _running_loop()
    if event.query():
        return
    await _poller_of(loop).wait_for(event)


def call_when_done(
    mark: "Callable[[], Event]", callback: Callable[..., T], arguments: tuple[object, ...], executor: Executor | None
) -> "asyncio.Task[T]":
    """Call *callback* in the running loop, or in *executor*, once the event that *mark* gives now is done.

    Raises:
        TypeError: *callback* cannot be called, or calling it makes a coroutine; or *executor* is none. Nothing was
            marked.
        NotSupportedError: no asyncio loop runs in this thread. Nothing was marked.
    """
    if not callable(callback) or _makes_a_coroutine(callback):
        message = f"a callback is a plain function; got {described(callback)}. In a coroutine, `await` the stream"
        raise TypeError(message)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        message = f"an executor is one of concurrent.futures, or has its method submit; got {described(executor)}"
        raise TypeError(message)
    loop = _running_loop()
    event = mark()

    async def call() -> T:
        await done(event)
        if executor is None:
            return callback(*arguments)
        return await loop.run_in_executor(executor, functools.partial(callback, *arguments))

    return loop.create_task(call(), name=f"interop: {getattr(callback, '__qualname__', 'callback')} when done")


def _makes_a_coroutine(callback: Callable[..., object]) -> bool:
    """Whether *callback* is a coroutine function, an object with such a ``__call__``, or a partial of one of them."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        message = (
            "no asyncio loop runs in this thread, and only such a one can wait without blocking: do it in a coroutine, "
            "under asyncio.run(...). Elsewhere, ask query(), or block with synchronize(timeout)"
        )
        raise NotSupportedError(message) from error
