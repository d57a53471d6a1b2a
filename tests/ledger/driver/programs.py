"""Recorded calls that are made by hand: small programs for the driver's eye."""

import itertools
from dataclasses import dataclass, field

from interop._order.findings import Kind
from interop.ledger.driver.calls import Call
from interop.ledger.driver.eye import Eye

KINDS = {"r": Kind.READ, "w": Kind.WRITE, "m": Kind.MAYBE, "-": None}
LEGACY, PER_THREAD = 1, 2
FILE = "/home/me/prog.py"


@dataclass
class Access:
    kinds: dict[int, Kind | None]
    why: str = "a store whose address was loaded from memory"
    reads: frozenset[int] = field(init=False)

    def __post_init__(self):
        self.reads = frozenset(offset for offset, kind in self.kinds.items() if kind is Kind.READ)

    def of(self, offset):
        return self.kinds.get(offset)


class Kernels:
    """A kernel that is called ``rw_add`` reads its first parameter, and writes its second one."""

    def access(self, symbol):
        kinds, _, _ = symbol.partition("_")
        if not kinds or not {*kinds} <= {*KINDS}:
            return None
        return Access({8 * at: KINDS[kind] for at, kind in enumerate(kinds)})


class Program:
    """Each call is made in a line of its own; ``source`` has the text of each."""

    def __init__(self):
        self.calls = []
        self.source = []
        self._addresses = itertools.count(0x7F0000000000, 1 << 20)
        self._handles = itertools.count(0x5000, 0x100)

    def call(self, kind, name="", text="pass", **more):
        self.source.append(text)
        line = len(self.source)
        code = compile("\n" * (line - 1) + text, FILE, "exec")
        defaults = {"thread": 1, "context": 7, "place": ((code, line),)}
        self.calls.append(Call(len(self.calls) + 1, kind, name or f"cu {kind}", **(defaults | more)))

    def stream(self, variable="", *, handle=0):
        handle = handle or next(self._handles)
        self.call("stream made", "cuStreamCreate", f"{variable or 'streams[0]'} = Stream()", a=handle, b=1)
        return handle

    def event(self):
        handle = next(self._handles)
        self.call("event made", "cuEventCreate", a=handle, b=2)
        return handle

    def array(self, variable="x", size=4096, *, at=0, stream=0):
        at = at or next(self._addresses)
        self.call(
            "alloc",
            "cuMemAllocAsync" if stream else "cuMemAlloc_v2",
            f"{variable} = zeros()",
            a=at,
            c=size,
            stream=stream,
        )
        return at

    def pooled(self, stream, at, variable="x", size=512, **more):
        self.call("pool alloc", "", f"{variable} = empty()", a=at, c=size, stream=stream, **more)
        return at

    def kernel(self, stream, symbol, *values, **more):
        words = tuple((8 * at, value) for at, value in enumerate(values))
        defaults = {"non_blocking": stream > PER_THREAD}
        self.call("launch", "cuLaunchKernel", stream=stream, symbol=symbol, words=words, **(defaults | more))

    def copy(self, stream, to, source, size=4096, name="cuMemcpyAsync", **more):
        self.call("copy", name, stream=stream, a=to, b=source, c=size, d=size, non_blocking=True, **more)

    def order(self, producer, consumer, event=0, **more):
        event = event or self.event()
        self.record(producer, event, **more)
        self.wait(consumer, event, **more)

    def record(self, stream, event, **more):
        self.call("record", "cuEventRecord", a=event, stream=stream, non_blocking=stream > PER_THREAD, **more)

    def wait(self, stream, event, **more):
        self.call("wait", "cuStreamWaitEvent", a=event, stream=stream, non_blocking=stream > PER_THREAD, **more)

    def sync(self, stream, **more):
        self.call("stream done", "cuStreamSynchronize", stream=stream, non_blocking=stream > PER_THREAD, **more)

    def judge(self, name_of=lambda _handle: ""):
        eye = Eye(Kernels(), name_of)
        eye.take(self.calls)
        return eye
