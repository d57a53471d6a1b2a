"""The memory that libraries cut out of the driver's blocks: the driver sees only the blocks.

CuPy's allocations are noted in the order of the calls. PyTorch keeps a history of its own, with times.
"""

import functools
import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from interop.ledger.driver.calls import Call
from interop.ledger.driver.recorder import Recorder

_MOST: Final = 1_000_000
"""Allocations that PyTorch remembers."""
_LEGACY: Final = 1
_ACTIONS: Final = {"alloc": "pool alloc", "free_requested": "pool free"}


class Pools:
    """Tells of the pools of CuPy and PyTorch, from the time on when the program imports them."""

    def __init__(self, recorder: Recorder) -> None:
        """Nothing is observed before :meth:`open`."""
        self._recorder = recorder
        self._undo: list[Callable[[], None]] = []
        self._torch: Any = None
        self._history: list[Call] = []

    def open(self) -> None:
        """Observe the libraries that are there, and those that the program will import."""
        observers = {"cupy": self._observe_cupy, "torch": self._observe_torch}
        for name in observers.keys() & sys.modules.keys():
            observers.pop(name)(sys.modules[name])
        finder = _Finder(observers)
        sys.meta_path.insert(0, finder)
        self._undo.append(lambda: sys.meta_path.remove(finder))

    def close(self) -> None:
        """Leave the libraries as they were. The history that PyTorch has can still be told."""
        while self._undo:
            self._undo.pop()()

    def merged(self, calls: Iterable[Call]) -> Iterator[Call]:
        """*calls*, with PyTorch's allocations in between, each at its time."""
        self._take_history()
        history, self._history = sorted(self._history, key=lambda call: call.time), []
        return heapq.merge(calls, history, key=lambda call: call.time)

    def _observe_cupy(self, cupy: Any) -> None:
        note, current = self._recorder.note, cupy.cuda.get_current_stream

        def noting(allocate: Callable[[int], Any] | None) -> Callable[[int], Any] | None:
            if allocate is None or hasattr(allocate, "__wrapped__"):
                return allocate

            @functools.wraps(allocate)
            def call(size: int) -> Any:
                memory = allocate(size)
                note("pool alloc", current().ptr or _LEGACY, memory.ptr, 0, size)
                return memory

            return call

        original = cupy.cuda.set_allocator

        def set_allocator(allocator: Callable[[int], Any] | None = None) -> None:
            original(noting(allocator))

        before = cupy.cuda.get_allocator()
        set_allocator(before)
        cupy.cuda.set_allocator = set_allocator

        def undo() -> None:
            cupy.cuda.set_allocator = original
            original(getattr(cupy.cuda.get_allocator(), "__wrapped__", before))

        self._undo.append(undo)

    def _observe_torch(self, torch: Any) -> None:
        memory = torch.cuda.memory

        def start() -> None:
            if not torch._C._cuda_isHistoryEnabled():  # the program has its own use for the history
                memory._record_memory_history(context=None, max_entries=_MOST)
                self._torch = torch
                segments = memory._snapshot()["segments"]
                for segment in segments:
                    for one in segment["blocks"]:
                        if one["state"] != "inactive":
                            self._recorder.note(
                                "pool alloc", segment["stream"] or _LEGACY, one["address"], 0, one["size"]
                            )

        def undo() -> None:
            if self._torch is not None:
                self._take_history()
                memory._record_memory_history(None)
                self._torch = None

        torch.cuda._lazy_call(start)
        self._undo.append(undo)

    def _take_history(self) -> None:
        """Keep what PyTorch's history has, and clear it."""
        if self._torch is None:
            return
        memory = self._torch.cuda.memory
        told = [
            entry for trace in memory._snapshot()["device_traces"] for entry in trace if entry["action"] in _ACTIONS
        ]
        memory._record_memory_history(context=None, max_entries=_MOST, clear_history=True)
        self._history += (
            Call(
                0, _ACTIONS[entry["action"]], stream=entry["stream"] or _LEGACY, a=entry["addr"], c=entry["size"],
                time=entry["time_us"] * 1000,
            )
            for entry in told
        )  # fmt: skip


class _Finder(MetaPathFinder):
    """Calls a function after a module was imported."""

    def __init__(self, after: dict[str, Callable[[ModuleType], None]]) -> None:
        self._after = after

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """The spec that others find, with a loader that calls the function."""
        del path, target
        after = self._after.pop(name, None)
        spec = find_spec(name) if after else None
        if after is None or spec is None or spec.loader is None:
            return None
        spec.loader = _Telling(spec.loader, after)
        return spec


class _Telling(Loader):
    def __init__(self, loader: Loader, after: Callable[[ModuleType], None]) -> None:
        self._loader, self._after = loader, after

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        self._after(module)
