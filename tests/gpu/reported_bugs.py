"""Ten kinds of bugs that users have reported in public: programs that do not know interop, and their corrected twins.

Nothing is copied from the reports. Each function is as those of bugs.py: ``lab.fixed`` makes it the bug or the twin,
``lab.slow`` says which stream to hold up, and which stream's work comes too early in the bug. No function declares what
it reads and writes. The reports:

- a copy on a stream of its own, which the computing stream does not wait for: ROCm/pytorch#3194
- a tensor that the default stream initialises, used at once on another stream: pytorch/pytorch#82050
- a tensor freed while a copy on another stream reads it: pytorch/pytorch#49915, meta-pytorch/torchrec#4231
- CuPy's pool, which knows one stream for each block: cupy/cupy#8068
- a copy on the legacy stream, and a non-blocking stream: paiml/aprender#2767, bheisler/RustaCUDA#59
- threads with a stream each, joined as threads only: pytorch/pytorch#2398
- an input that is overwritten while the last step still reads it: pytorch/pytorch#130785
- an event that stands for an older record than the memory needs: rapidsai/rmm#2490
"""

import threading

import cupy
import torch
from cuda.core import Device
from numba import cuda

from tests.gpu.bugs import BLOCK, GRID, NEXT, RIGHT, SIZE, copy, cupy_arrays, cupy_stream, torch_arrays

BYTES = SIZE * 8


def pinned(value):
    return torch.full((SIZE,), value, dtype=torch.float64).pin_memory()


def upload_not_awaited(lab):
    """A loader copies the batch on its own stream."""
    x, y = torch_arrays(lab)
    batch, loads, main = pinned(RIGHT), torch.cuda.Stream(), torch.cuda.current_stream()
    with lab.slow(loads, main):
        with torch.cuda.stream(loads):
            x.copy_(batch, non_blocking=True)
        if lab.fixed:
            main.wait_stream(loads)
        y.copy_(x)
    lab.ready()  # before the pinned memory is freed
    return y


def initialised_on_the_default_stream(lab):
    x, y = torch_arrays(lab)
    default, side = torch.cuda.current_stream(), torch.cuda.Stream()
    with lab.slow(default, side):
        x.fill_(RIGHT)
        if lab.fixed:
            side.wait_stream(default)
        with torch.cuda.stream(side):
            y.copy_(x)
    return y


def tensor_freed_while_it_is_copied(lab):
    """PyTorch's allocator gives the block to the next tensor of the stream that the block belongs to."""
    _, y = torch_arrays(lab)
    default, side = torch.cuda.current_stream(), torch.cuda.Stream()
    x = torch.full((SIZE,), RIGHT, dtype=torch.float64, device="cuda")
    spare = torch.empty(SIZE, dtype=torch.float64, device="cuda")
    address = x.data_ptr()
    del spare  # a block for the twin, without a call of the driver
    lab.ready()
    with lab.slow(side, default):
        side.wait_stream(default)
        with torch.cuda.stream(side):
            y.copy_(x)
        if lab.fixed:
            x.record_stream(side)
        del x
        following = torch.empty(SIZE, dtype=torch.float64, device="cuda")
        if lab.gated or not lab.fixed:
            assert (following.data_ptr() == address) != lab.fixed, "PyTorch's allocator does not work as this expects"
        following.fill_(NEXT)
    return y


def array_freed_while_another_stream_reads(lab):
    """As above, with CuPy's pool. CuPy has no ``record_stream``: the pool's stream waits before the array is freed."""
    _, y = cupy_arrays(lab)
    owner, reader = cupy_stream(), cupy_stream()
    with owner:
        x = cupy.full(SIZE, RIGHT)
    address = x.data.ptr
    lab.ready()
    with lab.slow(reader, owner):
        with reader:
            cupy.copyto(y, x)
        if lab.fixed:
            owner.wait_event(reader.record())
        del x
        with owner:
            following = cupy.empty(SIZE)
            assert following.data.ptr == address, "CuPy's pool does not work as this expects"
            following.fill(NEXT)
    return y


def legacy_copy_and_non_blocking_stream(lab):
    """The copy between two arrays returns at once; only blocking streams wait for the legacy stream."""
    x, y = cupy_arrays(lab)
    source = cupy.full(SIZE, RIGHT)
    reader = cupy_stream()
    lab.ready()
    with lab.slow(1, reader):
        cupy.cuda.runtime.memcpyAsync(x.data.ptr, source.data.ptr, BYTES, cupy.cuda.runtime.memcpyDeviceToDevice, 1)
        if lab.fixed:
            reader.wait_event(cupy.cuda.Stream.null.record())
        with reader:
            cupy.copyto(y, x)
    return y


def numba_upload_not_awaited(lab):
    x, y = cupy_arrays(lab)
    source, target = (cuda.as_cuda_array(array, sync=False) for array in (x, y))
    host = cuda.pinned_array(SIZE, "f8")
    host[:] = RIGHT
    loads, computes = cuda.stream(), cuda.stream()
    event = cuda.event(timing=False)
    launch = copy[GRID, BLOCK, computes]
    with lab.slow(loads, computes):
        source.copy_to_device(host, stream=loads)
        if lab.fixed:
            event.record(loads)
            event.wait(computes)
        launch(source, target)
    lab.ready()
    return y


def core_copy_not_awaited(lab):
    """Two streams of cuda.core, and a PyTorch operator on the second."""
    x, y = torch_arrays(lab)
    device = Device(torch.cuda.current_device())
    device.set_current()
    first, second = device.create_stream(), device.create_stream()
    source, target = (device.allocate(BYTES, stream=first) for _ in range(2))
    first.sync()  # the memory may be used on other streams from now on
    torch.from_dlpack(source).view(torch.float64).fill_(RIGHT)
    view = torch.from_dlpack(target).view(torch.float64)
    view.copy_(x)
    lab.ready()
    with lab.slow(first, second):
        target.copy_from(source, stream=first)
        if lab.fixed:
            second.wait(first)
        with torch.cuda.stream(torch.cuda.ExternalStream(int(second.handle))):
            y.copy_(view)
    lab.ready()  # before the memory is freed, on the first stream
    return y


def thread_joined_but_not_its_stream(lab):
    """The end of a thread says nothing about the work that it has queued."""
    x, y = torch_arrays(lab)
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()

    def work():
        with torch.cuda.stream(side):
            x.fill_(RIGHT)

    with lab.slow(side, main):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if lab.fixed:
            main.wait_stream(side)
        y.copy_(x)
    return y


def input_overwritten_for_the_next_step(lab):
    """One static input; the step of before still reads it."""
    x, y = torch_arrays(lab)
    x.fill_(RIGHT)
    step, main, batch = torch.cuda.Stream(), torch.cuda.current_stream(), pinned(NEXT)
    lab.ready()
    with lab.slow(step, main):
        step.wait_stream(main)
        with torch.cuda.stream(step):
            torch.mul(x, 1.0, out=y)
        if lab.fixed:
            main.wait_stream(step)
        x.copy_(batch, non_blocking=True)
    lab.ready()
    return y


def event_of_the_other_buffer(lab):
    """Two buffers take turns. The reader waits for the event that the first one was recorded with."""
    x, y = cupy_arrays(lab)
    other = cupy.empty(SIZE)
    writer, reader = cupy_stream(), cupy_stream()
    lab.ready()
    with lab.slow(writer, reader):
        events = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        with reader:
            other.fill(RIGHT)  # the first turn's buffer, of the reader's own
        events[0].record(reader)
        with writer:
            x.fill(RIGHT)
        events[1].record(writer)
        reader.wait_event(events[1 if lab.fixed else 0])
        with reader:
            cupy.copyto(y, x)
    return y


BUGS = [
    upload_not_awaited,
    initialised_on_the_default_stream,
    tensor_freed_while_it_is_copied,
    array_freed_while_another_stream_reads,
    legacy_copy_and_non_blocking_stream,
    numba_upload_not_awaited,
    core_copy_not_awaited,
    thread_joined_but_not_its_stream,
    input_overwritten_for_the_next_step,
    event_of_the_other_buffer,
]
