"""PyTorch: its operators, by their schemas; its streams and events; and its waits for the device."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from interop._order.findings import Kind
from interop.adapters.tensor import CUDA, OPAQUE, DataType, Tensor
from interop.event import Event, as_event
from interop.ledger.layout import Layout, block, of_tensor
from interop.ledger.ledger import Ledger
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import SEEN
from interop.stream import ExternalStream, as_stream

_COPIES: Final = ("aten::copy_", "aten::_to_copy")
_COLLECTIVES: Final = ("c10d", "_c10d_functional")
_WAITS: Final = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
"""Operators whose result tells Python something about the data: they wait for it. Others follow."""
_CHECKS: Final = ("aten::_linalg_check_errors",)
"""Operators without such a tag that look at the data on the host: they wait too."""
_INDEXING: Final = ("aten::index", "aten::index_put", "aten::index_put_")
_MASKS: Final = (torch.bool, torch.uint8)
_LEAVES_ALONE: Final = frozenset(
    {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
)
"""Operators that leave the memory of their result as it is."""
_READS_SHAPE: Final = ("new_", "_like", "is_same_size")
"""Parts of the names of operators that look only at their argument's shape."""


def observe(ledger: Ledger, patches: Patches) -> None:
    """Tell *ledger* of PyTorch's calls; of its operators, those in the calling thread and its backward passes only."""
    observer, events = _Observer(ledger), _Events(ledger)
    patches.observe(torch.cuda.Event, "record", observer.event_recorded)
    patches.observe(torch.cuda.Event, "wait", observer.event_waited)
    patches.observe(torch.cuda.Event, "synchronize", observer.event_done)
    patches.observe(torch.cuda.Event, "query", observer.event_asked)
    patches.observe(torch.cuda.Stream, "synchronize", observer.stream_done)
    patches.observe(torch.cuda.Stream, "query", observer.stream_asked)
    patches.observe(torch.cuda, "synchronize", observer.synchronized)
    patches.observe_class(
        torch,
        "Event",
        record=events.event_recorded,
        wait=events.event_waited,
        synchronize=events.event_done,
        query=events.event_asked,
    )
    operators = Operators(ledger)
    flags = {name: value for name, value in vars(_python_dispatch).items() if name.startswith("_is_in_")}

    def leave() -> None:
        if operators in _get_current_dispatch_mode_stack():
            for kept in vars(operators).values():
                if isinstance(kept, deque) and not kept:  # an interrupt came after PyTorch had removed the flag
                    kept.append(False)
            operators.__exit__(None, None, None)
        if not _get_current_dispatch_mode_stack():
            vars(_python_dispatch).update(flags)  # an interrupt may have come after PyTorch set them

    patches.on_undo(leave)
    operators.__enter__()  # type: ignore[no-untyped-call]


class _Observer(Observer):
    """Of ``torch.cuda.Event`` and ``torch.cuda.Stream``."""

    def stream_of(self, stream: Any, event: object) -> ExternalStream:
        del event
        return as_stream(torch.cuda.current_stream() if stream is None else stream)

    def event_of(self, event: Any) -> Event | None:
        return as_event(event) if event.cuda_event else None

    def synchronized(self, _result: None, device: Any = None) -> None:
        self.device_done(torch.cuda._utils._get_device_index(device, optional=True))


class _Events(Observer):
    """Of ``torch.Event``, which has no more than an address, 0 if it is another device's or was not recorded."""

    def stream_of(self, stream: Any, event: Any) -> ExternalStream:
        found = _stream_of(event.device) if stream is None else as_stream(stream)
        return ExternalStream(found.cuda_stream, found.device, owner=SEEN)

    def event_of(self, event: Any) -> Event | None:
        return as_event(event.event_id) if event.device.type == "cuda" and event.event_id else None


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a ledger of each operator that accesses memory on a GPU."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let code be compiled as without a ledger: otherwise PyTorch would run it uncompiled, or refuse to."""
        return True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._recorded: dict[Layout, dict[ExternalStream, None]] = {}

    def __exit__(self, *raised: object) -> None:
        """Leave this mode, and keep the modes that were entered after it. PyTorch would leave the last one instead."""
        stack = _get_current_dispatch_mode_stack()
        later = stack[stack.index(self) + 1 :] if self in stack else []
        for mode in reversed(later):
            TorchDispatchMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        for mode in later:
            TorchDispatchMode.__enter__(mode)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not all(map(_is_plain, types)):
            return NotImplemented  # PyTorch asks their class next, and the operators that the class calls come here
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(func, torch._ops.HigherOrderOperator):
            self._tell_of_functions(func, args, kwargs, result)
            return result
        if func is torch.ops.aten.record_stream.default:
            self._pool_will_wait(*args)
            return result
        self._pool_has_waited(func, result)
        touched = _touched(func, args, kwargs, result)
        if not touched:
            return result
        streams = {tensor.device: _stream_of(tensor.device) for tensor, _ in touched}
        # PyTorch makes the streams of both devices wait for each other, before and after.
        copies = len(streams) > 1 and func._schema.name in _COPIES
        unseen = not copies and (
            len(streams) > 1 or torch._C._current_graph_task_id() != -1 or func.namespace in _COLLECTIVES
        )
        self._order_unseen(list(streams.values()), copies=copies, unseen=unseen)
        self._tell(touched, streams, func._schema.name)
        if _waits(func, args, kwargs, result):
            for stream in streams.values():
                self._ledger.finished(stream)
        self._order_unseen(list(streams.values()), copies=copies, unseen=unseen)
        return result

    def _tell(self, touched: list[tuple[Any, Kind]], streams: dict[torch.device, ExternalStream], name: str) -> None:
        for device, stream in streams.items():
            arrays = [(tensor, _layout(tensor), kind) for tensor, kind in touched if tensor.device == device]
            self._ledger.accessed(stream, arrays, f"PyTorch's {name}")

    def _pool_will_wait(self, tensor: torch.Tensor, stream: torch.Stream) -> None:
        """PyTorch's pool will not give the tensor's memory again before *stream* is done with it."""
        if on_gpu(tensor):
            self._recorded.setdefault(_memory(tensor), {})[as_stream(stream)] = None

    def _pool_has_waited(self, func: Any, result: Any) -> None:
        """If a new tensor lies in memory that was recorded on streams, the pool has waited for these streams."""
        for new in (_memory(leaf) for leaf in tree_leaves(_new(func, result)) if self._recorded and _is_seen(leaf)):
            for memory in [old for old in list(self._recorded) if old.start < new.stop and new.start < old.stop]:
                for stream in self._recorded.pop(memory, ()):
                    self._ledger.pool_waited(memory, stream)

    def _tell_of_functions(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Tell of an operator that calls the user's functions, such as torch.cond. What these do cannot be seen."""
        touched = [(leaf, Kind.MAYBE) for leaf in tree_leaves((args, kwargs)) if _is_seen(leaf)]
        touched += [(leaf, Kind.WRITE) for leaf in tree_leaves(result) if _is_seen(leaf)]
        streams = {tensor.device: _stream_of(tensor.device) for tensor, _ in touched}
        out_of_sight = f"what PyTorch's {func} runs cannot be seen"
        self._ledger.assume_all_ordered(out_of_sight)
        self._tell(touched, streams, str(func))
        self._ledger.assume_all_ordered(out_of_sight)

    def _order_unseen(self, streams: list[ExternalStream], *, copies: bool, unseen: bool) -> None:
        if unseen:
            self._ledger.assume_all_ordered(
                "PyTorch orders streams out of sight: in backward passes, in collectives, and across devices"
            )
        if copies:
            for one, other in itertools.permutations(streams, 2):
                self._ledger.joined(one, other)


def _touched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[tuple[Any, Kind]]:
    """The tensors on a GPU whose elements an operator accesses, each once: as written if it is also written."""
    if torch.Tag.inplace_view in func.tags:
        return []  # such as t_(): it changes the shape and the strides, and touches no element
    name = func._schema.name.partition("::")[2]
    kinds: dict[int, tuple[Any, Kind]] = {}

    def touch(value: Any, kind: Kind) -> None:
        for leaf in tree_leaves(value):
            if _is_seen(leaf):
                kinds[id(leaf)] = (leaf, max(kind, kinds.get(id(leaf), (leaf, kind))[1]))

    for argument, value in _arguments(func, args, kwargs):
        if argument.alias_info is not None and argument.alias_info.is_write:
            touch(value, Kind.WRITE)
        elif argument.alias_info is None and not any(part in name for part in _READS_SHAPE):
            touch(value, Kind.READ)
    if name not in _LEAVES_ALONE:
        touch(_new(func, result), Kind.WRITE)
    return list(kinds.values())


def _is_seen(value: object) -> bool:
    return isinstance(value, torch.Tensor) and on_gpu(value) and value.layout is torch.strided


def _new(func: Any, result: Any) -> list[Any]:
    """The results of an operator that are not views of an argument."""
    results = [result] if len(func._schema.returns) == 1 else result or []
    return [value for returned, value in zip(func._schema.returns, results, strict=False) if not returned.alias_info]


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    arguments = func._schema.arguments
    yield from zip(arguments, args, strict=False)
    yield from ((argument, kwargs[argument.name]) for argument in arguments if argument.name in kwargs)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether the operator returns only when the device is done: the host reads data, or the copy is blocking."""
    given = {argument.name: value for argument, value in _arguments(func, args, kwargs)}
    name = func._schema.name
    if name in _INDEXING:
        return _indexing_waits(given["indices"], given.get("values"))
    if name in _CHECKS or (not _WAITS.isdisjoint(func.tags) and given.get("output_size") is None):
        return True
    if given.get("non_blocking"):
        return False
    # PyTorch's Copy.cu: without non_blocking, copies to and from the host wait, whether the memory is pinned or not.
    return any(_on_host(leaf) for leaf in tree_leaves((args, kwargs, result) if name in _COPIES else result))


def _indexing_waits(indices: list[Any], values: Any) -> bool:
    """Whether PyTorch waits to count the elements that a mask selects, or to copy from the host (IndexingUtils.h)."""
    indices = [index for index in indices if index is not None]
    masks = [index for index in indices if index.dtype in _MASKS]
    if _on_host(values):
        is_fill = values.numel() == 1 and len(indices) == len(masks) == 1 and not _on_host(masks[0])
        return not is_fill
    # A mask on the host is counted there, and the indices are copied without waiting.
    return any(_on_host(index) is not (index.dtype in _MASKS) for index in indices)


def _on_host(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and not on_gpu(value)


def _layout(tensor: torch.Tensor) -> Layout:
    dtype = DataType(OPAQUE, 8 * tensor.element_size(), 1)
    return of_tensor(Tensor(tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), dtype, CUDA, 0, False, None))  # noqa: FBT003


def _memory(tensor: torch.Tensor) -> Layout:
    storage = tensor.untyped_storage()
    return block(storage.data_ptr(), storage.nbytes())


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether the tensor itself has memory on a GPU: tensors that a compiler traces, or that wrap others, have none."""
    return tensor.is_cuda and not tensor.is_nested and _is_plain(type(tensor))


def _is_plain(cls: type) -> bool:
    """Whether PyTorch's own operators work on tensors of the class, and not code of the class."""
    return cls.__torch_dispatch__ is torch.Tensor.__torch_dispatch__  # type: ignore[attr-defined]


def _stream_of(device: torch.device) -> ExternalStream:
    return as_stream(torch.cuda.current_stream(device))
