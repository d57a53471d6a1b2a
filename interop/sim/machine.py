"""The state of a simulated CUDA: contexts, streams, events and host threads, and the rules of each call.

The fake CUDA modules and the user's objects are thin layers over one :class:`Machine`. A call that CUDA would refuse
raises :class:`Refused` with the status code.
"""

import gc
import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from interop import _cuda
from interop._order.accesses import Access
from interop._order.clock import Clock
from interop._order.clocks import Clocks, StreamKind
from interop._order.findings import Finding, Kind, Party
from interop._safety import forks
from interop.errors import DeadlockError, InteropError, NotSupportedError
from interop.sim.capture import Captures
from interop.sim.codes import INVALID_DEVICE, INVALID_HANDLE, Refused
from interop.sim.races import race
from interop.sim.schedule import InOrder
from interop.sim.state import Array, Event, Stream, Thread
from interop.sim.work import Queue, Work

if TYPE_CHECKING:
    from interop.sim.waits import HostWaits

GREATEST_PRIORITY: Final = -5

# A 64-bit user space cannot map these addresses, so no handle is the address of a real object.
_CONTEXTS: Final = 0x5111_C000_0000_0000
_STREAMS: Final = 0x5111_5000_0000_0000
_EVENTS: Final = 0x5111_E000_0000_0000
_SPACING: Final = 0x100


class _Addresses:
    """The handles of one kind of object. As in CUDA, they are reused: first the one that was freed last."""

    def __init__(self, start: int) -> None:
        self._fresh = itertools.count(start, _SPACING)
        self._freed: list[int] = []

    def take(self) -> int:
        return self._freed.pop() if self._freed else next(self._fresh)

    def free(self, address: int) -> None:
        self._freed.append(address)


P = ParamSpec("P")
T = TypeVar("T")


class Machine:
    """A simulated CUDA. Call every method but the constructor through :meth:`alone`."""

    def __init__(self, devices: int, scheduler: InOrder, *, raises: bool) -> None:
        """Make the devices, each with one context and its default streams; *raises* says whether races are errors."""
        self._lock = forks.lock()
        self._is_busy = False
        self.ended = False
        self.devices = devices
        self.scheduler = scheduler
        self._raises = raises
        self.clocks = Clocks()
        self.queue = Queue(self._drained)
        self.captures = Captures()
        self.races: list[Finding] = []
        self.host_waits: list[HostWaits] = []
        self.contexts = [_CONTEXTS + device * _SPACING for device in range(devices)]
        self.events: dict[int, Event] = {}
        self.streams: dict[int, Stream] = {}
        self._threads: list[Thread] = []
        self._local = threading.local()
        self._stream_numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._works = itertools.count(1)
        self._stream_addresses = _Addresses(_STREAMS)
        self._event_addresses = _Addresses(_EVENTS)
        self._legacy = {
            context: self._add_stream(
                f"the legacy default stream{self._of_device(context)}", context, StreamKind.LEGACY
            )
            for context in self.contexts
        }
        forks.in_child(self, Machine._was_forked)

    def _was_forked(self) -> None:
        """Go on in the child, unless another thread was inside a step: the child has no thread to finish the step."""
        if self._is_busy and not self._lock._is_owned():  # noqa: SLF001
            self._is_busy, self.ended = False, True
            gc.enable()

    def alone(self, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *step* while no other thread runs a step, and no finaliser runs.

        A finaliser may call the simulator, which would find a step half done; or take a lock, whose holder may be
        waiting here. So the garbage collector is off during the step, and finished work is freed after it. The
        collector is turned off before the lock is taken, too: Python 3.12 still runs a collection that was due.
        """
        gone: list[object] = []
        entered, collects = False, gc.isenabled()
        try:
            gc.disable()
            with self._lock:
                entered, is_outermost = True, not self._is_busy
                collects = collects or gc.isenabled()
                try:
                    self._is_busy = True
                    gc.disable()
                    return step(*args, **kwargs)
                finally:
                    if is_outermost:
                        self._is_busy = False
                        gone, self.queue.gone = self.queue.gone, gone
                    if collects:
                        gc.enable()
        finally:
            if collects and not entered:
                gc.enable()

    def check(self) -> None:
        """Make sure that the simulation is still running."""
        if self.ended:
            message = "this simulation has ended: its streams, events and arrays mean nothing any more"
            raise InteropError(message)

    # -- threads and contexts ------------------------------------------------------------------------------------

    def thread(self) -> Thread:
        """The calling thread."""
        thread: Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = Thread(threading.current_thread())
            self._threads.append(thread)
            self.clocks.add_thread(thread)
            self._local.thread = thread
        for other in list(self._threads):
            # At the interpreter's exit, the calling thread itself is no longer alive.
            if other is not thread and not other.thread.is_alive():
                self._threads.remove(other)
                self.clocks.end_thread(other)
                for stream in other.streams.values():
                    self._retire(stream)
                self.queue.gone.append(other)
        return thread

    def hear(self, other: threading.Thread) -> None:
        """Let the calling thread know what *other* knows."""
        me = self.thread()
        for thread in self._threads:
            if thread.thread is other:
                self.clocks.hear(me, thread)

    def device(self) -> int:
        """The calling thread's current device."""
        thread = self.thread()
        return self.contexts.index(thread.contexts[-1]) if thread.contexts else thread.device

    def context(self) -> int:
        """The calling thread's current context. If it has none, the context of its current device becomes current."""
        thread = self.thread()
        if not thread.contexts:
            thread.contexts.append(self.contexts[thread.device])
        return thread.contexts[-1]

    def set_device(self, device: int) -> None:
        """Make the context of *device* current, in place of the current one."""
        if not 0 <= device < self.devices:
            raise Refused(INVALID_DEVICE)
        thread = self.thread()
        thread.device = device
        thread.contexts[-1:] = [self.contexts[device]]

    # -- streams and events --------------------------------------------------------------------------------------

    def stream(self, handle: int) -> Stream:
        """The stream that *handle* means in the calling thread and its current context."""
        if handle == 0:
            handle = _cuda.null_handle()
        if handle == _cuda.LEGACY:
            return self._legacy[self.context()]
        if handle == _cuda.PER_THREAD:
            context, thread = self.context(), self.thread()
            if context not in thread.streams:
                name = f"the per-thread default stream of {thread.thread.name}{self._of_device(context)}"
                thread.streams[context] = self._add_stream(name, context, StreamKind.BLOCKING)
            return thread.streams[context]
        found = self.streams.get(handle)
        if found is None:
            raise Refused(INVALID_HANDLE)
        return found

    def create_stream(self, context: int, kind: StreamKind, priority: int = 0, name: str | None = None) -> int:
        """Create a stream; its handle."""
        handle = self._stream_addresses.take()
        self.streams[handle] = self._add_stream(name or f"stream {next(self._names)}", context, kind)
        self.streams[handle].priority = min(max(priority, GREATEST_PRIORITY), 0)
        return handle

    def destroy_stream(self, handle: int) -> None:
        """Destroy a stream. Its pending work still runs, and the next stream may get its handle."""
        stream = self.streams.pop(handle, None)
        if stream is None:
            raise Refused(INVALID_HANDLE)
        self.captures.abandon(stream)
        self._retire(stream)
        self._stream_addresses.free(handle)

    def event(self, handle: int) -> Event:
        """The event of a handle."""
        found = self.events.get(handle)
        if found is None:
            raise Refused(INVALID_HANDLE)
        return found

    def create_event(self) -> int:
        """Create an event in the current context; its handle."""
        handle = self._event_addresses.take()
        self.events[handle] = Event(f"event {handle:#x}", self.context())
        return handle

    def open_event(self, handle: int) -> int:
        """Open an event of another process; its handle here."""
        event = self.event(handle)
        event.handles += 1
        opened = self._event_addresses.take()
        self.events[opened] = event
        return opened

    def destroy_event(self, handle: int) -> None:
        """Destroy an event. Waits already placed on it stay, and so do the handles of other processes."""
        event = self.event(handle)
        event.handles -= 1
        if not event.handles:
            self.clocks.forget_event(event)
        del self.events[handle]
        self._event_addresses.free(handle)

    def record(self, event: Event, stream: Stream) -> None:
        """Let *event* stand for the work of *stream* so far."""
        if event.context != stream.context:
            raise Refused(INVALID_HANDLE)
        capture = self.captures.enter(stream)
        event.stream, event.capture = stream.name, capture
        if capture:
            event.nodes = capture.known[stream].copy()
            self.clocks.forget_event(event)
        else:
            self.clocks.record(event, stream, self.thread())

    def record_context(self, event: Event, context: int) -> None:
        """Let *event* stand for all work of *context* so far."""
        if event.context != context:
            raise Refused(INVALID_HANDLE)
        self.captures.refuse_context(context)
        event.stream, event.capture = f"all streams{self._of_device(context)}", None
        self.clocks.record_context(event, context, self.thread())

    def wait(self, stream: Stream, event: Event) -> None:
        """Let the later work of *stream* come after what *event* stands for now."""
        if not self.captures.wait(stream, event) and self.clocks.is_recorded(event):
            self.clocks.wait(stream, event, self.thread())
            stream.waits.append((event, event.stream, self.clocks.of_event(event)))
            if len(stream.waits) >= stream.room:
                stream.waits = [wait for wait in stream.waits if self.queue.holds(wait[2])]
                stream.room = 8 + 2 * len(stream.waits)

    # -- work ----------------------------------------------------------------------------------------------------

    def enqueue(self, stream: Stream, work: Work) -> None:
        """Enqueue *work*, or capture it.

        Args:
            stream: where.
            work: its epoch, clock and number are set here.
        """
        capture = self.captures.enter(stream)
        if capture:
            if work.is_gate:
                message = "a gate cannot be captured in the simulator: captured work is not executed"
                raise NotSupportedError(message)
            capture.launch(stream)
            return
        thread = self.thread()
        known = self.clocks.before_next(stream, thread)
        by = f"kernel {work.name!r}"
        parties = {
            array: Party(by, stream.name, Kind.WRITE if array in work.writes else Kind.READ, array.name, work.where)
            for array in (*work.reads, *work.writes)
        }
        self._race(parties, known, on_host=False)
        work.number = next(self._works)
        steps = 0 if work.is_gate else 1
        work.epoch = self.clocks.enqueue(stream, thread, steps)
        for array, party in parties.items():
            array.accesses.add(Access(party, work.epoch, party.kind is Kind.WRITE), known)
        work.clock = known
        self.queue.add(work)
        known.add(work.epoch, steps)
        self.scheduler.enqueued(self.queue)

    def access(self, array: Array, where: str, *, writes: bool) -> None:
        """Let the host read or write an array, now."""
        thread = self.thread()
        known = self.clocks.of_thread(thread)
        party = Party("the host", thread.thread.name, Kind.WRITE if writes else Kind.READ, array.name, where)
        self._race({array: party}, known, on_host=True)
        self.scheduler.access(self.queue, array, writes=writes)
        self.queue.trace.add(f"the host {party.kind.verb} {array.name} ({where})")
        array.accesses.add(Access(party, self.clocks.access(thread), writes, by_host=True), known)

    def query(self, target: Clock, asked: str) -> bool:
        """Whether the work that *target* knows is done."""
        self.queue.open_overdue()
        held = self.queue.held(target) if self.host_waits else []
        done = self.scheduler.query(self.queue, target, f"is {asked} done")
        for waits in self.host_waits:
            waits.asks(held, target, asked, done=done)
        self.queue.trace.add(f"the host asks whether {asked} is done: {'yes' if done else 'no'}", once=True)
        if done:
            self.clocks.tell(self.thread(), target)
        return done

    def reach(self, target: Clock, waits_for: str) -> None:
        """Run what must run before *target* is reached.

        Raises:
            DeadlockError: a closed gate holds it.
        """
        self.queue.open_overdue()
        if held := self.queue.held(target):
            for waits in self.host_waits:
                waits.waits(held, waits_for)
            self.scheduler.reach(self.queue, target)
        if held := self.queue.held(target):
            raise DeadlockError(self._explain(held, waits_for))
        self.queue.trace.add(f"the host has waited for {waits_for}")
        self.clocks.tell(self.thread(), target)

    def end(self) -> None:
        """Run all pending work."""
        self.reach(self.clocks.of_everything(), "the end of the simulation")

    def _race(self, parties: dict[Array, Party], known: Clock, *, on_host: bool) -> None:
        found = [
            race(old, parties[array], on_host=on_host)
            for array in sorted(parties, key=lambda array: array.number)
            for old in array.accesses.conflicts(known, writes=parties[array].kind is Kind.WRITE, by_host=on_host)
        ]
        self.races += found
        if found and self._raises:
            raise found[0].error(found[1:])

    def _explain(self, held: list[Work], waits_for: str) -> str:
        lines = [f"the host ({self.thread().thread.name}) waits for {waits_for}, which needs work that can never run:"]
        gates = [work for work in held if work.is_closed]
        lines += [
            f"- kernel {work.name!r} on {work.stream} ({work.where}) is held" for work in held if not work.is_gate
        ]
        for stream in self._all_streams():
            for event, recorded, clock in stream.waits:
                if any(clock.knows(gate.epoch) for gate in gates):
                    lines.append(f"- {stream.name} waits for {event.name}, recorded on {recorded}")
        lines += [f"- {gate.stream} is held by the closed {gate.name} ({gate.where})" for gate in gates]
        lines.append("Open the gate before the host waits: the simulator does not wait for another thread to open it.")
        return "\n".join(lines)

    # -- inside --------------------------------------------------------------------------------------------------

    def _add_stream(self, name: str, context: int, kind: StreamKind) -> Stream:
        stream = Stream(next(self._stream_numbers), name, context, kind)
        self.clocks.add_stream(stream, context=context, kind=kind)
        return stream

    def _retire(self, stream: Stream) -> None:
        """Forget a stream when its work is done."""
        stream.is_over = True
        if not self.queue.is_pending(self.clocks.line(stream)):
            self._drained(stream)

    def _drained(self, stream: Hashable) -> None:
        if isinstance(stream, Stream) and stream.is_over and stream in self.clocks:
            self.clocks.remove_stream(stream)

    def _all_streams(self) -> Iterator[Stream]:
        yield from self._legacy.values()
        for thread in self._threads:
            yield from thread.streams.values()
        yield from self.streams.values()

    def _of_device(self, context: int) -> str:
        return f" of device {self.contexts.index(context)}" if self.devices > 1 else ""
