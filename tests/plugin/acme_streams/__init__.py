"""A library with streams of its own. It knows nothing of interop, and does not speak ``__cuda_stream__``."""

import threading


class Stream:
    """A stream; ``raw`` is the address of its ``cudaStream_t``."""

    def __init__(self, raw: int, keep_alive: object = None) -> None:
        self.raw = raw
        self.keep_alive = keep_alive


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stream = Stream(0)


_thread = _Thread()


def get_stream() -> Stream:
    """The calling thread's current stream."""
    return _thread.stream


def set_stream(stream: Stream) -> None:
    """Make *stream* the calling thread's current one."""
    _thread.stream = stream
