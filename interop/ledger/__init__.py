"""The ordering ledger: it watches a program, and reports the waits that it forgot, with both places in its code.

::

    with interop.ordering.check() as ledger:
        ledger.writes(x, producer)   # CuPy's kernels cannot be seen: say what they do
        fill(x)
        double[grid, block, consumer](x)   # Numba's launches are seen: RaceError at the end of the block

It decides by CUDA's rules, and not by what happened to run first: so it finds a missing wait also where the program got
away with it. It changes nothing in what the program orders, and never blocks. A report is one of two things:

- a *race*: two accesses share a byte, one writes, and nothing orders them;
- *unknown*: nothing that was seen orders them, but something that cannot be seen may, or it is not known whether one of
  them writes. It raises nothing, and is there to be read: ``print(ledger)``.

**What is seen of the order.** Every record, wait, synchronise, successful query and hand-over through interop, in all
threads. Beyond it, in libraries that are imported before the block is entered:

- CuPy: ``Stream`` and ``Event`` (wait_event, record, synchronize, done), ``synchronize`` of a ``Device`` that is made
  in the block, these by ``runtime`` (eventRecord, streamWaitEvent, and the three that synchronise), and the wait for
  the device in ``ndarray.get``, which ``asnumpy``, ``item`` and ``float`` come down to. Not:
  ``array.device.synchronize()``, and what C code does.
- PyTorch: ``torch.cuda.Stream`` and ``torch.cuda.Event``, a ``torch.Event`` that is made in the block,
  ``torch.cuda.synchronize``, and the wait for the device in ``item``, ``cpu``, copies from the host that are not
  ``non_blocking``, and operators whose result depends on data. Not: ``torch.Stream`` itself.
  ``backward()``, collectives, and operators that run functions, such as ``torch.cond``, order streams out of sight:
  what they may have ordered is unknown, and never a race.
- Numba: ``Stream``, ``Event``, ``cuda.synchronize``, ``copy_to_host``.
- cuda.bindings: records, waits, queries, and the synchronisation of a device, context, stream or event, by a call on
  its modules.
- The host's waits by cuda.core's ``Device.sync`` and Warp's ``synchronize``, and those of a device, stream or event.

Of cuda.core, RMM, Warp, JAX, other libraries, and streams that are bare addresses, other waits cannot be seen: where
such a stream, or an event that was recorded out of sight, could have ordered two accesses, or the host by waiting for
it, they are unknown.

**What is seen of the accesses.**

- :func:`interop.handoff` and :func:`interop.borrow`: the consumer reads the array from then on. If nothing is known of
  its memory yet, the producer has written it before.
- PyTorch's operators, in the thread that entered the block and in ``backward()``: by their schemas. Not what custom
  kernels and compiled code do inside one operator, and not the kernels that ``torch.compile`` makes. Memory that was
  recorded on a stream (``Tensor.record_stream``) is known to be given again only when that stream is done with it.
- Numba's launches, in all threads: every device array among the arguments is read, and *may* be written; with something
  that surely writes that is a race, with something that reads it is unknown. Say ``ledger.writes`` where it writes.
- CuPy's memory pool, in the thread that entered the block: memory that is given to a new array while another stream may
  still use it is unknown, until an access shows. CuPy's kernels cannot be seen at all.
- all others: :meth:`Ledger.reads` and :meth:`Ledger.writes`.

Memory is told apart by bytes: views that overlap conflict, those that do not, strided or not, do not. (If NumPy is
missing, or cannot tell in a few milliseconds, strided ones are unknown.) Memory that goes back to the driver and is
allocated again, not by CuPy or Numba, is taken for the old one; the driver waits for the device then, and that is not
seen: do it outside the block.

Outside of a simulation, a ledger is closed by the thread that has opened it, and one thread at a time has some open.
What is taken from a library in the block, such as a bound method or a ``torch.Event``, is not watched in a later one.

A ledger may be open for long: it keeps what is alive, and of what is gone the accesses that later ones can still
conflict with, those that are alike once. A signal handler may raise at any moment (Ctrl-C): what was being noted is
noted, as a whole, before the next call.

While a stream captures a graph, nothing is executed, and its calls and accesses are left out; ``ledger.captured``
counts them. Launches of graphs are not seen.
"""

from interop.ledger.access import Kind, Party
from interop.ledger.ledger import Ledger
from interop.ledger.report import Finding
from interop.ledger.session import Watched

__all__ = ["Finding", "Kind", "Ledger", "Party", "Watched"]
