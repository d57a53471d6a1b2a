"""Another process, which does what it is asked, by name, in order; and what it can do with arrays of interop.

Every answer has a time limit, and the process is killed at the end. So a test that hangs here fails, and ends.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import traceback
from pathlib import Path

TIMEOUT = 40


class Other:
    """The other process, as a test sees it."""

    def __init__(self, *libraries):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=main, args=(end, libraries), daemon=True)
        self.process.start()
        end.close()
        self.is_late = False

    def tell(self, name, *arguments):
        self.pipe.send((name, arguments))

    def answer(self, timeout=TIMEOUT):
        if not self.pipe.poll(timeout):
            self.is_late = True
            message = f"the other process has not answered for {timeout} s"
            raise TimeoutError(message)
        fine, value = self.pipe.recv()
        if not fine:
            raise RuntimeError(value)
        return value

    def ask(self, name, *arguments):
        self.tell(name, *arguments)
        return self.answer()

    def kill(self):
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10)


def main(pipe, libraries):
    faulthandler.enable()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    worker = Worker()
    try:
        worker.start(libraries)
        pipe.send((True, None))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    while True:
        try:
            name, arguments = pipe.recv()
            answer = (True, getattr(worker, name)(*arguments))
        except (EOFError, OSError) as error:
            if not isinstance(error, ConnectionError):
                os._exit(0)
            answer = (False, traceback.format_exc())
        except BaseException:
            answer = (False, traceback.format_exc())
        with contextlib.suppress(OSError):
            pipe.send(answer)


class Jax:
    def __init__(self):
        import jax
        import numpy as np

        self.copy = jax.jit(lambda array: array + np.uint8(0))
        self.out = None

    def read(self, view, _stream):
        self.out = self.copy(view)

    def seen(self):
        import numpy as np

        return np.asarray(self.out)


class Worker:
    """What the other process does."""

    def start(self, libraries):
        import interop
        from tests.gpu.test_arrays import CONSUMERS, N, cupy_array

        self.stream = interop.new_stream(device=0)
        self.unordered = interop.new_stream(device=0)
        self.consumers = {name: (Jax if name == "jax" else CONSUMERS[name])() for name in libraries}
        self.views, self.gate = [], None
        self.n = N
        for name, consumer in self.consumers.items():  # so that nothing is loaded behind a gate
            for stream in (self.stream, self.unordered):
                consumer.read(interop.handoff(cupy_array(stream), stream, producer=stream, into=name), stream)
                stream.synchronize()
            consumer.seen()
        interop.release()

    def receive_unordered(self, token, library):
        return self.receive(token, library, ordered=False)

    def receive(self, token, library, *, ordered=True):
        """Receive, and submit a copy; whether that is done already."""
        import interop

        view = interop.receive(token, self.stream, into=library)
        self.views.append(view)
        self.library = library
        stream = self.stream if ordered else self.unordered
        self.consumers[library].read(view, stream)
        return stream.query()

    def unordered_read(self):
        """The values that the other stream, which waits for nothing, has read."""
        self.unordered.synchronize(timeout=20)
        return self.seen()

    def read_again(self):
        self.consumers[self.library].read(self.views[-1], self.stream)

    def done(self):
        return self.stream.query()

    def result(self):
        self.stream.synchronize(timeout=20)
        return self.seen()

    def seen(self):
        return sorted({int(value) for value in self.consumers[self.library].seen()})

    def release(self):
        import gc

        import interop

        self.views.clear()
        gc.collect()
        return interop.release()

    def shut(self):
        from interop.testing import gate

        self.gate = gate(self.stream, timeout=20)

    def open(self):
        self.gate.open()
        self.gate = None

    def hold_for_ever(self):
        """Hold the stream up until this process is killed."""
        from cuda.bindings import driver, runtime

        code, host = runtime.cudaHostAlloc(4096, 3)
        assert not int(code)
        driver.cuStreamWaitValue32(self.stream.cuda_stream, int(runtime.cudaHostGetDevicePointer(host, 0)[1]), 1, 0)

    def share(self, value):
        """Share an array that this process writes."""
        from cuda.bindings import runtime

        import interop
        from tests.gpu.test_arrays import cupy_array

        self.array = cupy_array(self.stream)
        runtime.cudaDeviceSynchronize()
        runtime.cudaMemsetAsync(self.array.data.ptr, value, self.n, self.stream.cuda_stream)
        return interop.share(self.array, self.stream)

    def rounds(self, tokens):
        """Receive and give back each of many tokens."""
        import interop

        for token in tokens:
            interop.receive(token, self.stream, into="cupy")
        self.stream.synchronize()
        interop.release()

    def descriptors(self):
        return len([*Path("/proc/self/fd").iterdir()])
