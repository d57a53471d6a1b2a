"""``await stream``, ``await event``, ``stream.when_done(callback)``: asyncio waits for the GPU, without a thread.

CUDA has no file descriptor that a loop could wait for, and its host callbacks can deadlock with the GIL. So events are
queried. There is one :class:`_Poller` for each loop, however many coroutines wait. Its pauses grow with the time that
they have waited, and it uses a small part of the loop's time.
"""

import functools
import weakref
from abc import abstractmethod
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from interop._core.habits import WithoutHabits
from interop._order import watchers
from interop._show.text import described
from interop.errors import NotSupportedError

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor

T = TypeVar("T")

# The timers of asyncio on epoll, and of uvloop, count in milliseconds.
_SHORTEST_PAUSE: Final = 1e-3
_LONGEST_PAUSE: Final = 5e-3
_GROWTH: Final = 1 / 8
"""The next pause, as a part of the time since the last coroutine began to wait."""
_REST: Final = 19
"""The next pause is at least this many times as long as the last round of queries: they take a twentieth at most."""


class _Queried(Protocol):
    def query(self) -> bool: ...


class Waitable(WithoutHabits):
    """What streams and events have in common: a coroutine can wait until their work is done."""

    __slots__ = ()

    @abstractmethod
    def _event_of_work(self, verb: str) -> _Queried:
        """The event that stands for the work submitted so far. *verb* is for the message of an error."""

    def __await__(self) -> Generator[Any, None, None]:
        """Wait, in a coroutine, until the work is done, while the asyncio loop goes on.

        The work of a stream is what was submitted to it so far. The work of an event is what it has recorded; if it is
        recorded again during the wait, the new record counts.

        No thread is made, and the host is not blocked: one timer for each loop queries all that is awaited in the loop,
        every 1 to 5 milliseconds. The queries take at most a twentieth of the loop's time. The wait can be cancelled;
        the work on the device goes on.

        Raises:
            CaptureError: the stream captures, or the event was recorded in a capture: there is no work that runs. The
                capture goes on.
            UnrecordedEventError: the event was never recorded.
            CudaError: the work, or earlier work on the device, has failed.
            NotSupportedError: no asyncio loop runs the coroutine.
        """
        return done(self._event_of_work("await")).__await__()

    def when_done(
        self, callback: Callable[..., T], *args: object, executor: "Executor | None" = None
    ) -> "asyncio.Task[T]":
        """Call *callback* with *args* once the work is done; returns at once.

        Example::

            import asyncio

            async def main():
                await producer.when_done(print, "producer is done")

            asyncio.run(main())

        The work is that of ``await``: what was submitted to the stream so far, or what the event has recorded. The loop
        queries it every 1 to 5 milliseconds; no thread is made, and the host is not blocked.

        Args:
            callback: a plain function. It is called in the asyncio loop that runs now, or by *executor*.
            args: the arguments of *callback*.
            executor: where to call it instead, such as a ``concurrent.futures.ThreadPoolExecutor``.

        Returns:
            A task. Its result is what *callback* returned. If the work on the device fails, *callback* is not called,
            and the task fails with that error; so it does with what :meth:`query` of an event raises. If the task is
            cancelled before the work is done, *callback* is not called. The loop keeps the task alive.

        Raises:
            CaptureError: the stream captures: it has no work that runs. The capture goes on.
            NotSupportedError: no asyncio loop runs in this thread.
            TypeError: *callback* is no plain function, or *executor* is no executor.
        """
        if not callable(callback) or _makes_a_coroutine(callback):
            message = f"a callback is a plain function; got {described(callback)}. In a coroutine, `await` the stream"
            raise TypeError(message)
        if executor is not None and not callable(getattr(executor, "submit", None)):
            message = f"an executor is one of concurrent.futures, or has its method submit; got {described(executor)}"
            raise TypeError(message)
        loop = _running_loop()
        event = self._event_of_work("wait for")

        async def call() -> T:
            await done(event)
            if executor is None:
                return callback(*args)
            return await loop.run_in_executor(executor, functools.partial(callback, *args))

        return loop.create_task(call(), name=f"interop: {getattr(callback, '__qualname__', 'callback')} when done")

    def _tell_finished(self) -> None:
        """Tell the watchers that the host knows that the work is done."""
        for watcher in watchers.active:
            watcher.finished(self)


class _Poller:
    """Queries events for one loop, for all coroutines that wait in it. Its timer keeps it alive while any waits."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Future[None], _Queried] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._spent = 0.0

    def wait_for(self, event: _Queried) -> "asyncio.Future[None]":
        """A future that is done when *event* is. To give up waiting, cancel it."""
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(self._leave)
        self._waiting[future] = event
        # A new coroutine gets short pauses, however long the others have waited.
        self._since = self._loop.time()
        self._schedule()
        return future

    def _schedule(self) -> None:
        now = self._loop.time()
        pause = min(max((now - self._since) * _GROWTH, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        due = now + max(pause, self._spent * _REST)
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # else a steady flow of new coroutines would put the timer off for ever
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._ask)

    def _ask(self) -> None:
        """Query every event once, and set another timer if any coroutine still waits."""
        self._timer = None
        start = self._loop.time()
        try:
            for future, event in list(self._waiting.items()):
                if future.done():
                    continue  # it was cancelled, and the loop is about to call `_leave`
                try:
                    if event.query():
                        future.set_result(None)
                except Exception as error:  # noqa: BLE001  (the coroutine that waits gets it)
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


# Weak on both sides: a loop that was closed while coroutines waited is garbage, and so is its poller.
_pollers: Final["weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Poller]]"] = (
    weakref.WeakKeyDictionary()
)


def _poller_of(loop: "asyncio.AbstractEventLoop") -> _Poller:
    reference = _pollers.get(loop)
    poller = reference() if reference else None
    if poller is None:
        poller = _Poller(loop)
        _pollers[loop] = weakref.ref(poller)
    return poller


async def done(event: _Queried) -> None:
    """Wait until *event* is done, while the loop goes on.

    Raises:
        NotSupportedError: no asyncio loop runs this coroutine.
        UnrecordedEventError, CaptureError, CudaError: as :meth:`interop.Event.query`.
    """
    loop = _running_loop()
    if event.query():
        return
    await _poller_of(loop).wait_for(event)


def _makes_a_coroutine(callback: Callable[..., object]) -> bool:
    """Whether *callback* is a coroutine function, an object with such a ``__call__``, or a partial of one of them."""
    import inspect  # noqa: PLC0415  (slow to import)

    while isinstance(callback, functools.partial):
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _running_loop() -> "asyncio.AbstractEventLoop":
    import asyncio  # noqa: PLC0415  (slow to import)

    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        message = (
            "no asyncio loop runs in this thread, and only a loop can wait without blocking the host: wait in a "
            "coroutine, under asyncio.run(...). Elsewhere, ask query(), or block with synchronize(timeout)"
        )
        raise NotSupportedError(message) from error
