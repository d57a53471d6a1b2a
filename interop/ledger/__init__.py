"""The ordering ledger: watches a program, and reports the waits that it forgot, with both places in its code.

:func:`interop.ordering.check` opens one. It decides by CUDA's rules, and not by what happened to run first. So it finds
a missing wait also in a run that got the right result. It adds no order to the program, and never blocks. A finding is
one of two things:

- a *race*: two accesses share a byte, at least one writes, and nothing orders them;
- *unknown*: nothing that was seen orders them, but something out of sight may, or nothing says whether one of them
  writes. It raises nothing: read it with ``print(ledger)``.

A ledger has one of two eyes. ``ledger.eye`` says which, and why.

**The driver's eye** records every call that the process makes of the driver, in all threads, whatever library makes it.
It judges them when somebody asks, or when the block ends. It needs CUPTI, which PyTorch and the CUDA toolkit bring.
By default it is opened where it can be before CUDA is in use. ``check(eye="driver")`` opens it later too, where it does
not know the kernels that were loaded before. What a kernel does through its parameters is read from its machine code.
How far an array reaches is told by what CuPy and Numba pass with its address; else it reaches to the end of its memory.
Beyond races it finds

- *use after free*, *use before allocation*, *reuse of freed memory* by a pool, *work on a destroyed stream*.

``ledger.blind`` says what was seen and could not be judged. Nothing is seen of what the kernels of graphs do, of what
kernels launch, of kernels that start before the work before them has ended, of the host's own use of pinned and managed
memory, of other processes, and of what was submitted before the block.

**The libraries' eyes**, as follows, see what interop and the libraries report, and what the program declares.

**What is seen of the order.** Every record, wait, synchronize, successful query and hand-over through interop, in all
threads. Beyond that, in libraries that are imported before the block is entered:

- CuPy: ``Stream`` and ``Event`` (wait_event, record, synchronize, done); ``synchronize`` of a ``Device`` that is made
  in the block; of ``runtime``, eventRecord, streamWaitEvent, and the three functions that synchronize; and the wait in
  ``ndarray.get``, which ``asnumpy``, ``item`` and ``float`` call. Not ``array.device.synchronize()``, nor C code.
- PyTorch: ``torch.cuda.Stream`` and ``torch.cuda.Event``; a ``torch.Event`` that is made in the block;
  ``torch.cuda.synchronize``; and the wait in ``item``, ``cpu``, copies from the host without ``non_blocking``, and
  operators whose result depends on data. Not ``torch.Stream`` itself. ``backward()``, collectives, and operators that
  call functions, such as ``torch.cond``, order streams out of sight: what they may have ordered is unknown, not a race.
- Numba: ``Stream``, ``Event``, ``cuda.synchronize``, ``copy_to_host``.
- cuda.bindings: records, waits, queries, and the synchronization of a device, context, stream or event, if the program
  calls them on its modules.
- cuda.core and Warp: only where the host waits, by cuda.core's ``Device.sync``, or by Warp's ``synchronize``, also of a
  device, stream or event.

Other waits cannot be seen: those of cuda.core, RMM, Warp, JAX and other libraries, and those of streams that are bare
addresses. If such a stream, or an event whose record was not seen, could have ordered two accesses, they are unknown.
So are they if the host could have waited for it.

**What is seen of the accesses.**

- :func:`interop.handoff` and :func:`interop.borrow`: the consumer reads the array from then on. If nothing is known of
  the array's memory yet, the producer has written it before.
- PyTorch's operators, in the thread that entered the block and in ``backward()``, by their schemas. Not what a custom
  kernel or compiled code does inside one operator, and not the kernels that ``torch.compile`` makes. If memory was
  recorded on a stream (``Tensor.record_stream``), it is reused only after that stream is done with it.
- Numba's launches, in all threads: which arrays a kernel reads and writes, by its PTX. Where the PTX does not tell (one
  of two arrays, or one that is passed to code in a linked file), the kernel *may* write the array. Together with a
  certain write that is a race; together with a read it is unknown. Say ``ledger.writes`` where such a kernel writes.
- CuPy's memory pool, in the thread that entered the block: if the pool gives memory to a new array while another stream
  may still use it, that is unknown until an access is seen. CuPy's kernels cannot be seen at all.
- All others: declare them by :meth:`Ledger.reads` and :meth:`Ledger.writes`.

Accesses are compared byte by byte: views conflict only if they overlap, strided or not. If NumPy is missing, or cannot
tell within a few milliseconds, two strided views are unknown. Memory that is freed to the driver and allocated again,
by other libraries than CuPy and Numba, counts as the old memory. The driver waits for the device then, which is not
seen: do it outside the block.

Outside of a simulation, only the thread that opened a ledger can close it, and only one thread at a time can have
ledgers open. A bound method or a ``torch.Event`` that was taken from a library in one block is not observed in a later
block.

A ledger may be open for long. It keeps what is alive. Of what is gone, it keeps the accesses that later ones can still
conflict with, and equal ones once. A signal handler may raise at any moment (Ctrl-C): the ledger then finishes its
entry before the next call.

While a stream captures a graph, nothing runs. The ledger leaves out calls and accesses on that stream, and counts them
in ``ledger.captured``. It does not see launches of graphs.
"""

from interop._order.findings import Finding, Kind, Party
from interop.ledger.ledger import Ledger
from interop.ledger.session import Watched

__all__ = ["Finding", "Kind", "Ledger", "Party", "Watched"]
