"""The owner of a stream that interop created."""

import sys
import weakref
from collections.abc import Callable

from interop._cuda import Cuda


class CreatedStream:
    """Owns a CUDA stream that interop created. The stream is destroyed some time after the last reference is gone."""

    __slots__ = ("__weakref__", "_cuda", "_next", "handle")

    def __init__(self, cuda: Cuda, handle: int = 0) -> None:
        self.handle = handle  # 0 until the stream is created, and then set in one step
        self._cuda = cuda

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter exits, the driver frees all streams, and may be gone already.
        if getattr(self, "handle", 0) and not _finalizing():
            self._cuda.stream_retire(self.handle, weakref.ref(self))

    def keep(self) -> None:
        """Retire the stream once more, later: a finaliser has kept this object, and `__del__` runs only once.

        A second owner, which is freed together with this one, does it.
        """
        self._next = CreatedStream(self._cuda, self.handle)
