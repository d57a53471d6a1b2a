"""Happens-before over streams and events, by vector clocks.

:func:`check` watches a program, and reports the waits that the program forgot. It decides by these:

:class:`Clocks` follows the calls that a program makes (enqueue, record, wait, synchronize). For any piece of work, it
says whether CUDA's rules order the work before what comes next on a stream or on the host. :class:`Accesses` keeps the
accesses of one buffer that later ones can still conflict with.

Neither calls CUDA: streams, events, contexts and host threads are whatever hashable keys the caller uses. Neither takes
a lock: the caller does.

The rules:

- A stream runs its work in order. Work starts after everything that the thread which enqueued it knew to be done.
- An event stands for the work before its latest record. A wait binds to the latest record *at the time of the wait*.
  A wait for an event that was never recorded orders nothing.
- The legacy stream of a context waits for all earlier work of the context's blocking streams, also of destroyed ones.
  All later work of blocking streams waits for the legacy stream, also that of streams made later. Non-blocking streams
  are exempt. A bare record or wait on the legacy stream counts as work there (measured on an H200 with driver 580).
- A bare record on any other stream is only a snapshot. In particular it does not make a blocking stream wait for the
  legacy stream: such a stream says that it is done while the event recorded on it is not (measured likewise).
- A new thread knows what the other threads know: one of them has started it, and nothing says which.

A program may run for long, and create and drop any number of streams, threads and events. The clocks stay as small as
what is alive, if the caller reports what has ended:

- Call :meth:`Clocks.remove_stream` when a stream is destroyed, :meth:`Clocks.end_thread` when a thread has ended, and
  :meth:`Clocks.forget_event` when an event is destroyed.
- Keep an :class:`Epoch` only as long as it may be asked for. An epoch holds its :class:`Line`. The clocks forget a
  line once its stream or thread has ended and nobody holds the line. No key of the caller's may hold an epoch.
- Two :class:`Clocks` that follow the same streams, and are asked for the same epochs, are made with ``beside=``.
- Keep no :class:`Clock` to join it later: :meth:`Clocks.assign` lets an event stand for it.
- Of accesses that differ only in their epochs, keep only the last one of each :attr:`Line.group`, as
  :class:`Accesses` does. So the accesses of a million destroyed streams become one.
"""

from interop._order.accesses import Access, Accesses
from interop._order.clock import Clock, Epoch, Line
from interop._order.clocks import Clocks, StreamKind
from interop.ledger.session import check

__all__ = ["Access", "Accesses", "Clock", "Clocks", "Epoch", "Line", "StreamKind", "check"]

for _public in (Access, Accesses, Clock, Clocks, Epoch, Line, StreamKind, check):
    _public.__module__ = __name__
