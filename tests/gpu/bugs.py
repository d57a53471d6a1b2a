"""Twelve common bugs with real libraries, and their corrected twins.

Each is one function; ``lab.fixed`` makes it the bug or the twin. It runs in two ways: under a ledger without a gate, to
see whether the ledger reports it; and behind a gate without a ledger, to see which values the reader gets. For the
gate, the function names the stream to hold up, and the stream whose work comes too early in the bug.

A ledger cannot see CuPy's kernels, so the functions declare their accesses.
"""

import contextlib
import threading

import cupy
import torch
from numba import cuda

import interop

SIZE = 1 << 18
GRID, BLOCK = SIZE // 256, 256
STALE, RIGHT, NEXT = 1.0, 7.0, 9.0


@cuda.jit("void(float64[::1], float64[::1])")
def copy(source, target):
    i = cuda.grid(1)
    if i < target.size:
        target[i] = source[i]


class Nobody:
    """Stands for a ledger, and does nothing."""

    def reads(self, array, stream):
        pass

    def writes(self, array, stream):
        pass


class Lab:
    """How a bug or its twin runs: with ``ledger=ledger``, or with ``gated=True`` behind a gate."""

    def __init__(self, *, fixed, ledger=None, gated=False):
        self.fixed = fixed
        self.ledger = Nobody() if ledger is None else ledger
        self.gated = gated

    @contextlib.contextmanager
    def slow(self, stream, early):
        """Hold up *stream* in the block. In the bug, *early* is done with its work before the block ends."""
        with interop.testing.gate(stream) if self.gated else contextlib.nullcontext():
            yield
            self.finish(early)

    def finish(self, early):
        if self.gated and not self.fixed and early is not None:
            interop.as_stream(early).synchronize()

    def ready(self):
        """Wait until the devices are done with the set-up."""
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)

    # Work of CuPy, which is also declared to the ledger.

    def fill(self, x, stream, value=RIGHT):
        self.ledger.writes(x, stream)
        with stream:
            x.fill(value)

    def copy(self, x, y, stream):
        self.ledger.reads(x, stream)
        self.ledger.writes(y, stream)
        with stream:
            cupy.copyto(y, x)


def cupy_arrays(lab):
    x, y = cupy.full(SIZE, STALE), cupy.full(SIZE, STALE)
    lab.ready()
    return x, y


def torch_arrays(lab, *devices):
    arrays = [torch.full((SIZE,), STALE, dtype=torch.float64, device=f"cuda:{device}") for device in devices or (0, 0)]
    lab.ready()
    return arrays


def cupy_stream():
    return cupy.cuda.Stream(non_blocking=True)


# Each function returns the array that its reader has written: all RIGHT, or the bug has shown.


def wrong_current_stream(lab):
    """PyTorch works on its own current stream, not on CuPy's current stream."""
    (x, _), (_, y) = cupy_arrays(lab), torch_arrays(lab)
    stream, default = cupy_stream(), torch.cuda.current_stream()
    with lab.slow(stream, default):
        lab.fill(x, stream)
        with interop.use(stream) if lab.fixed else stream:
            y.copy_(torch.as_tensor(x, device="cuda"))
    return y


def side_stream_not_joined(lab):
    x, y = torch_arrays(lab)
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    with lab.slow(side, main):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            x.fill_(RIGHT)
        if lab.fixed:
            main.wait_stream(side)
        y.copy_(x)
    return y


def array_interface_read_by_torch(lab):
    """PyTorch does not look at the stream that an array interface states."""
    (x, _), (_, y) = cupy_arrays(lab), torch_arrays(lab)
    writer, reader = cupy_stream(), torch.cuda.Stream()
    with lab.slow(writer, reader):
        lab.fill(x, writer)
        with torch.cuda.stream(reader), writer:
            tensor = interop.handoff(x, reader, into="torch") if lab.fixed else torch.as_tensor(x, device="cuda")
            y.copy_(tensor)
    return y


def event_recorded_before_the_work(lab):
    x, y = cupy_arrays(lab)
    writer, reader = cupy_stream(), cupy_stream()
    event = cupy.cuda.Event(disable_timing=True)
    event.record(writer)
    with lab.slow(writer, reader):
        lab.fill(x, writer)
        if lab.fixed:
            event.record(writer)
        reader.wait_event(event)
        lab.copy(x, y, reader)
    return y


def event_never_recorded(lab):
    x, y = cupy_arrays(lab)
    writer, reader = cupy_stream(), cupy_stream()
    event = cupy.cuda.Event(disable_timing=True)
    with lab.slow(writer, reader):
        lab.fill(x, writer)
        if lab.fixed:
            event.record(writer)
        reader.wait_event(event)  # to CUDA, an unrecorded event is done
        lab.copy(x, y, reader)
    return y


def buffer_used_again(lab):
    """The next batch is loaded into a buffer while the last batch is still computed from it."""
    x, y = torch_arrays(lab)
    batches = [torch.full((SIZE,), value, dtype=torch.float64).pin_memory() for value in (RIGHT, NEXT)]
    loads, computes = torch.cuda.Stream(), torch.cuda.Stream()
    with lab.slow(computes, loads):
        with torch.cuda.stream(loads):
            x.copy_(batches[0], non_blocking=True)
        computes.wait_stream(loads)
        with torch.cuda.stream(computes):
            y.copy_(x)
        if lab.fixed:
            loads.wait_stream(computes)
        with torch.cuda.stream(loads):
            x.copy_(batches[1], non_blocking=True)
    lab.ready()  # before the pinned memory is freed
    return y


def freed_before_the_consumer_is_done(lab):
    """A pool gives the memory to the next array of its stream, although another stream still uses the memory."""
    _, y = cupy_arrays(lab)
    target = cuda.as_cuda_array(y, sync=False)
    pool, consumer = cupy_stream(), cupy_stream()
    launch = copy[GRID, BLOCK, interop.as_stream(consumer).to("numba")]
    with pool:
        x = cupy.empty(SIZE)
        spare = cupy.empty(SIZE)
    address = x.data.ptr
    if lab.fixed:
        del spare  # the pool can give this memory, and need not ask the driver
    lab.ready()
    with lab.slow(consumer, pool):
        lab.fill(x, pool)
        if lab.fixed:
            view = interop.handoff(x, consumer, producer=pool, into="numba")
        else:
            interop.as_stream(consumer).wait_stream(pool)
            view = cuda.as_cuda_array(x, sync=False)
        launch(view, target)
        del x, view
        with pool:
            following = cupy.empty(SIZE)
        if lab.gated or not lab.fixed:  # in the twin without a gate, the consumer may be done already
            assert (following.data.ptr == address) != lab.fixed, "CuPy's pool does not work as this test expects"
        lab.fill(following, pool, NEXT)
    lab.ready()
    interop.release()
    return y


def default_stream_against_a_non_blocking_one(lab):
    """Only blocking streams wait for the default stream."""
    x, y = cupy_arrays(lab)
    default, reader = cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=not lab.fixed)
    with lab.slow(default, reader):
        lab.fill(x, default)
        lab.copy(x, y, reader)
    return y


def numba_launch_on_stream_0(lab):
    x, y = cupy_arrays(lab)
    source, target = (cuda.as_cuda_array(array, sync=False) for array in (x, y))
    stream = cupy_stream()
    launch = copy[GRID, BLOCK, interop.as_stream(stream).to("numba")] if lab.fixed else copy[GRID, BLOCK]
    with lab.slow(stream, 1):
        lab.fill(x, stream)
        launch(source, target)
    return y


def one_per_thread_handle_in_two_threads(lab):
    """The same handle stands for another stream in each thread."""
    x, y = cupy_arrays(lab)
    stream = cupy.cuda.Stream.ptds
    failed, queued, opened = [], threading.Event(), threading.Event()

    def other():
        try:
            if lab.fixed:
                stream.wait_event(event)
            lab.copy(x, y, stream)
            lab.finish(stream)
        except BaseException as error:
            failed.append(error)
        queued.set()
        opened.wait()  # the end of the thread destroys its stream, which must not happen behind a gate
        stream.synchronize()

    with lab.slow(stream, None):
        lab.fill(x, stream)
        event = stream.record()
        thread = threading.Thread(target=other)
        thread.start()
        queued.wait()
    opened.set()
    thread.join()
    assert not failed, failed
    return y


def event_on_the_wrong_device(lab):
    """The event is recorded on a stream of the current device. The work was on a stream of the other device."""
    x, y = torch_arrays(lab, 1, 0)
    event = torch.cuda.Event()
    with torch.cuda.device(1):
        writer = torch.cuda.Stream()
    reader = torch.cuda.Stream()
    with lab.slow(writer, reader):
        with torch.cuda.device(1), torch.cuda.stream(writer):
            x.fill_(RIGHT)
        if lab.fixed:
            event.record(writer)
        else:
            event.record()
        reader.wait_event(event)
        with torch.cuda.stream(reader):
            y.copy_(x, non_blocking=True)
    return y


def missing_reverse_edge(lab):
    """The consumer waits for the producer, but nothing orders the way back."""
    x, y = cupy_arrays(lab)
    target = cuda.as_cuda_array(y, sync=False)
    owner, guest = cupy_stream(), cupy_stream()
    launch = copy[GRID, BLOCK, interop.as_stream(guest).to("numba")]
    with lab.slow(guest, owner):
        lab.fill(x, owner)
        if lab.fixed:
            with interop.borrow(x, consumer=guest, producer=owner, into="numba") as view:
                launch(view, target)
        else:
            interop.as_stream(guest).wait_stream(owner)
            launch(cuda.as_cuda_array(x, sync=False), target)
        lab.fill(x, owner, NEXT)
    return y


BUGS = [
    wrong_current_stream,
    side_stream_not_joined,
    array_interface_read_by_torch,
    event_recorded_before_the_work,
    event_never_recorded,
    buffer_used_again,
    freed_before_the_consumer_is_done,
    default_stream_against_a_non_blocking_one,
    numba_launch_on_stream_0,
    one_per_thread_handle_in_two_threads,
    event_on_the_wrong_device,
    missing_reverse_edge,
]


# The same mistakes with interop's own calls, which refuse them.


def refused_event_never_recorded():
    interop.as_stream(cupy_stream()).wait_event(torch.cuda.Event())


def refused_one_per_thread_handle_in_two_threads():
    stream, reader = interop.as_stream(cupy.cuda.Stream.ptds), interop.as_stream(cupy_stream())
    raised = []

    def other():
        try:
            reader.wait_stream(stream)
        except interop.errors.InteropError as error:
            raised.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    raise raised[0]


def refused_event_on_the_wrong_device():
    with torch.cuda.device(1):
        writer = torch.cuda.Stream()
    interop.as_stream(writer).record_event(interop.Event(device=0))


REFUSED = {
    "event_never_recorded": (refused_event_never_recorded, "UnrecordedEventError"),
    "one_per_thread_handle_in_two_threads": (refused_one_per_thread_handle_in_two_threads, "InvalidStreamError"),
    "event_on_the_wrong_device": (refused_event_on_the_wrong_device, "DeviceMismatchError"),
}
