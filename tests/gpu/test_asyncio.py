"""Streams awaited in an asyncio loop, on a GPU, and the processor time that this takes."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import interop
from interop.testing import gate
from tests.gpu.lab import STREAMS, native_stream
from tests.gpu.record import measured

STREAMS_AWAITED = 100
SECONDS = 1.0


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def native_threads():
    return len(list(Path("/proc/self/task").iterdir()))


async def cpu_share(seconds):
    """The process's processor time divided by wall time, while the loop does nothing but await."""
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def test_a_hundred_awaited_streams_need_no_thread_and_no_busy_loop():
    async def main():
        head = interop.new_stream()
        streams = [interop.new_stream() for _ in range(STREAMS_AWAITED)]
        for stream in streams:  # loads everything before the gate is shut
            stream.wait_stream(head)
            await stream
        native = native_threads()
        with gate(head) as shut:
            threads = set(threading.enumerate())  # includes the timer of the gate
            for stream in streams:
                stream.wait_stream(head)
            tasks = [asyncio.ensure_future(stream) for stream in streams]
            await asyncio.sleep(0.05)
            share = await cpu_share(SECONDS)
            assert not any(task.done() for task in tasks)
            assert set(threading.enumerate()) <= threads

            async def busy(event):
                while not event.query():  # noqa: ASYNC110  (the control)
                    await asyncio.sleep(0)

            spinning = asyncio.ensure_future(busy(streams[0].record_event()))
            control = await cpu_share(0.2)
            spinning.cancel()

            tasks[50].cancel()
            await asyncio.sleep(0)
            assert tasks[50].cancelled()
            assert not any(task.done() for task in tasks if task is not tasks[50])
            assert not shut.is_open, "the host was blocked until the gate opened itself"
            shut.open()
            opened = time.perf_counter()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            late = time.perf_counter() - opened
        assert [type(result) for result in results].count(asyncio.CancelledError) == 1
        assert results.count(None) == STREAMS_AWAITED - 1
        assert all(stream.query() for stream in streams)
        assert set(threading.enumerate()) <= threads
        measured(
            "asyncio",
            streams=STREAMS_AWAITED,
            seconds=SECONDS,
            cpu_share=round(share, 4),
            cpu_share_of_a_busy_loop=round(control, 4),
            seconds_from_the_gate_to_the_last_awaiter=round(late, 4),
            native_threads_before=native,
            native_threads_after=native_threads(),
        )
        assert control > 0.5  # a busy loop shows in the measurement
        assert share < 0.1
        assert late < 0.5

    run(main())


@pytest.mark.parametrize("library", STREAMS)
def test_await_waits_for_the_work_so_far_only(library, interop_need):
    if library != "int":
        interop_need(library)

    async def main():
        stream = interop.as_stream(native_stream(library, 0, 0))
        await stream
        with gate(stream) as first:
            awaited = asyncio.ensure_future(stream)
            await asyncio.sleep(0.02)
            with gate(stream) as second:
                assert not awaited.done()
                first.open()
                await asyncio.wait_for(awaited, 5)
                assert not stream.query()
                assert not second.is_open
        await stream
        assert stream.query()

    run(main())


@pytest.mark.parametrize("handle", [1, 2])
def test_a_default_stream_can_be_awaited(handle):
    async def main():
        stream = interop.ExternalStream(handle)
        await stream
        with gate(stream) as shut:
            awaited = asyncio.ensure_future(stream)
            await asyncio.sleep(0.02)
            assert not awaited.done()
            shut.open()
            await awaited
        assert stream.query()

    run(main())


def test_streams_of_two_devices_can_be_awaited_in_one_loop(interop_need):
    interop_need("gpu2")

    async def main():
        a, b = interop.new_stream(0), interop.new_stream(1)
        with gate(a) as shut:
            on_a = asyncio.ensure_future(a)
            await asyncio.wait_for(b, 5)
            assert not on_a.done()
            shut.open()
            await on_a

    run(main())


def test_when_done_calls_its_function_once_the_stream_is_done():
    async def main():
        stream = interop.new_stream()
        called = []
        with gate(stream) as shut:
            task = stream.when_done(called.append, 1)
            await asyncio.sleep(0.02)
            assert called == []
            shut.open()
            await task
        assert called == [1]

    run(main())


# A fault on the device destroys the context, so this runs in a process of its own.
FAULT = """
import asyncio
import numpy as np
from numba import cuda
import interop
from interop.errors import CudaError

@cuda.jit("void(float64[::1], int64)")
def write(a, i):
    a[i] = 1.0

async def main():
    a = cuda.to_device(np.zeros(1))
    stream = interop.new_stream()
    await stream
    write[1, 1, stream.to("numba")](a, 1 << 50)
    try:
        await stream
    except CudaError as error:
        print("CudaError", error.code)

asyncio.run(main())
import os, sys
sys.stdout.flush()
os._exit(0)  # finalisers would fail in the broken context
"""


@pytest.mark.needs("numba")
def test_a_fault_on_the_device_reaches_the_awaiter():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", FAULT], capture_output=True, text=True, timeout=100)
    assert result.stdout in ("CudaError 700\n", "CudaError 719\n"), result.stderr
