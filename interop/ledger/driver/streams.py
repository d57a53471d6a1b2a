"""Which stream, and which thread, a recorded call means: an address may be that of another stream by now."""

from pathlib import Path
from typing import Final

from interop._order.findings import Finding, Kind, Party
from interop.ledger.driver.calls import Call
from interop.ledger.driver.reports import LEGACY, PER_THREAD, Names, Stream, work_of
from interop.ledger.driver.verdict import Verdict
from interop.ledger.history import History

_MANY_THREADS: Final = 64


class Thread:
    """A thread that calls the driver, until it has ended."""

    has_ended = False

    def is_alive(self) -> bool:
        """Whether it may make more calls."""
        return not self.has_ended


class Streams:
    """The streams and the threads of recorded calls, as the history knows them."""

    def __init__(self, history: History, names: Names, verdict: Verdict) -> None:
        """Start with none."""
        self._history = history
        self._names = names
        self._verdict = verdict
        self._streams: dict[object, Stream] = {}
        self._contexts: dict[int, int] = {}
        self.context = 0  # the latest one: what a library tells names none
        self._destroyed: dict[int, Party] = {}
        self.threads: dict[int, Thread] = {}

    def of(self, call: Call) -> Stream:
        """The stream of a call."""
        key, context = self._key(call)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = self._names.stream(call, context)
            self._history.known(stream)
        return stream

    def label(self, call: Call) -> str:
        """What a report calls the stream of a call, which may be a pool's, and need not be known."""
        key, context = self._key(call)
        return (self._streams.get(key) or self._names.stream(call, context)).label

    def _key(self, call: Call) -> tuple[object, int]:
        handle = call.stream or LEGACY
        context = self._contexts.get(handle, call.context or self.context)
        if handle <= PER_THREAD:
            return (context, handle, call.thread if handle == PER_THREAD else 0), context
        return handle, context

    def thread(self, call: Call) -> Thread:
        """The thread of a call."""
        thread = self.threads.get(call.thread)
        if thread is None:
            if len(self.threads) >= _MANY_THREADS:
                self._end_threads()
            thread = self.threads[call.thread] = Thread()
        return thread

    def made(self, call: Call) -> None:
        """A stream was made."""
        self._forget(call.a)
        self._names.stream_made(call)
        self._contexts[call.a] = call.context
        self._destroyed.pop(call.a, None)

    def gone(self, call: Call) -> None:
        """A stream is destroyed."""
        label, where = self._names.label(call.a), self._names.where(call.place)[0]
        self._destroyed[call.a] = Party(call.name, "the host", Kind.DESTROY, label, where)
        self._forget(call.a)

    def is_destroyed(self, call: Call) -> bool:
        """Whether the call names a stream that was destroyed before, which is reported."""
        destroyed = self._destroyed.get(call.stream)
        if destroyed is not None:
            party = Party(work_of(call), destroyed.array, Kind.READ, destroyed.array, self._names.where(call.place)[0])
            self._verdict.find(Finding(destroyed, party, "destroy the stream after its last use"))
        return destroyed is not None

    def _forget(self, handle: int) -> None:
        stream = self._streams.pop(handle, None)
        if stream is not None:
            self._history.remove(stream)
        self._contexts.pop(handle, None)

    def _end_threads(self) -> None:
        """Forget the threads that have ended. What they knew, all others know, as one of them may have joined them."""
        for number in [number for number in self.threads if not Path(f"/proc/self/task/{number}").exists()]:
            self.threads.pop(number).has_ended = True
            for key in [key for key in self._streams if isinstance(key, tuple) and key[1:] == (PER_THREAD, number)]:
                self._history.remove(self._streams.pop(key))
