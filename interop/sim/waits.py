"""Where the host of a simulation waits for pending work: what :func:`interop.testing.assert_host_free` asks."""

import threading

from interop._order.clock import Clock
from interop._order.clocks import StreamKind
from interop._show.callsite import where
from interop.sim.state import Stream
from interop.sim.work import Work


class HostWaits:
    """Told by the machine, from when it is made, of all that host threads wait for and ask.

    Waits of the thread that made it count, and those of threads that have started since: the others do work of their
    own. A query waits for nothing; but to ask until the answer is yes is to wait.

    Attributes:
        seen: the waits, a line each: the line of the program, and what it waited for.
    """

    def __init__(self, streams: list[Stream]) -> None:
        """Count waits for the work of *streams*, and of the blocking streams of a legacy one; by default of all."""
        self.seen: list[str] = []
        self._streams = streams
        self._thread = threading.current_thread()
        self._others = set(threading.enumerate()) - {self._thread}
        self._not_done: list[Work] = []

    def waits(self, held: list[Work], what: str) -> None:
        """The calling thread waits for *what*, which needs *held* to run."""
        thread = threading.current_thread()
        if thread not in self._others and any(map(self._counts, held)):
            by = "" if thread is self._thread else f", in {thread.name}"
            self.seen.append(f"{where()}: waited for {what}{by}")

    def asks(self, held: list[Work], target: Clock, what: str, *, done: bool) -> None:
        """The calling thread has asked whether *what* is done, when *held* was not."""
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
