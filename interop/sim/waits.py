"""Where the host of a simulation waits for pending work, for :func:`interop.testing.assert_host_free`."""

import threading

from interop._order.clock import Clock
from interop._order.clocks import StreamKind
from interop._show.callsite import where
from interop.sim.state import Stream
from interop.sim.work import Work


class HostWaits:
    """Notes the waits of the host. The machine reports every wait and query to it.

    The waits of the thread that made it count, and those of threads that have started since; other threads do work of
    their own. One query is no wait, but a loop of queries that ends when the work is done is one.

    Attributes:
        seen: one line for each wait: the line of the program, and what it waited for.
    """

    def __init__(self, streams: list[Stream]) -> None:
        """Count the waits for *streams*, by default for all; a legacy stream includes the blocking ones."""
        self.seen: list[str] = []
        self._streams = streams
        self._thread = threading.current_thread()
        self._others = set(threading.enumerate()) - {self._thread}
        self._not_done: list[Work] = []

    def waits(self, held: list[Work], what: str) -> None:
        """The calling thread waits for *what*, which comes after the pending work *held*."""
        thread = threading.current_thread()
        if thread not in self._others and any(map(self._counts, held)):
            by = "" if thread is self._thread else f", in {thread.name}"
            self.seen.append(f"{where()}: waited for {what}{by}")

    def asks(self, held: list[Work], target: Clock, what: str, *, done: bool) -> None:
        """The calling thread has asked whether *what* is done, while the work *held* was pending."""
        if done:
            self.waits([*held, *(work for work in self._not_done if target.knows(work.epoch))], what)
            self._not_done = [work for work in self._not_done if not target.knows(work.epoch)]
        else:
            self._not_done += [work for work in held if work not in self._not_done]

    def _counts(self, work: Work) -> bool:
        stream = work.epoch.line.key
        return (
            not self._streams
            or stream in self._streams
            or (
                isinstance(stream, Stream)
                and stream.kind is StreamKind.BLOCKING
                and any(other.kind is StreamKind.LEGACY and other.context == stream.context for other in self._streams)
            )
        )
