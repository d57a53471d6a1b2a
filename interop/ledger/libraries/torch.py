"""PyTorch, watched: its operators, by their schemas; its streams and events; its waits for the device."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from interop import _cuda
from interop.event import as_event
from interop.ledger.ledger import SEEN
from interop.ledger.libraries.patch import Changes
from interop.ledger.memory import Kind, Layout
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger

_COPIES: Final = ("aten::copy_", "aten::_to_copy")
_COLLECTIVES: Final = ("c10d", "_c10d_functional")
_WAITS: Final = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
"""Operators of which Python gets to know something that is in the data: they wait for it. With exceptions."""
_CHECKS: Final = ("aten::_linalg_check_errors",)
"""Operators without such a tag that look at data on the host: they wait, too."""
_INDEXING: Final = ("aten::index", "aten::index_put", "aten::index_put_")
_MASKS: Final = (torch.bool, torch.uint8)
_LEAVES_ALONE: Final = frozenset(
    {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
)
"""Operators that write nothing into what they return."""
_READS_SHAPE: Final = ("new_", "_like", "is_same_size")
"""In the names of operators that look at their argument's shape only."""


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* what PyTorch does; of its operators, in the calling thread and its backward passes only."""
    eyes = _Eyes(ledger)
    changes.tell(torch.cuda.Event, "record", eyes.recorded)
    changes.tell(torch.cuda.Event, "wait", eyes.waited)
    changes.tell(torch.cuda.Event, "synchronize", eyes.event_done)
    changes.tell(torch.cuda.Event, "query", eyes.event_asked)
    changes.tell(torch.cuda.Stream, "synchronize", eyes.stream_done)
    changes.tell(torch.cuda.Stream, "query", eyes.stream_asked)
    changes.tell(torch.cuda, "synchronize", eyes.device_done)
    changes.stand_in(
        torch,
        "Event",
        record=eyes.address_recorded,
        wait=eyes.address_waited,
        synchronize=eyes.address_done,
        query=eyes.address_asked,
    )
    operators = Operators(ledger)
    flags = {name: value for name, value in vars(_python_dispatch).items() if name.startswith("_is_in_")}

    def leave() -> None:
        if operators in _get_current_dispatch_mode_stack():
            for kept in vars(operators).values():
                if isinstance(kept, deque) and not kept:  # an interrupt came after PyTorch had taken the flag out
                    kept.append(False)
            operators.__exit__(None, None, None)
        if not _get_current_dispatch_mode_stack():
            vars(_python_dispatch).update(flags)  # an interrupt may have come after PyTorch had set them

    changes.add(leave)
    operators.__enter__()  # type: ignore[no-untyped-call]


class _Eyes:
    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    # torch.Event, which interop knows by its address only.

    def address_recorded(self, _result: None, event: Any, stream: Any = None) -> None:  # noqa: ANN401
        if address := _address(event):
            self.ledger.recorded(_seen(event, stream), as_event(address))

    def address_waited(self, _result: None, event: Any, stream: Any = None) -> None:  # noqa: ANN401
        if address := _address(event):
            self.ledger.waited(_seen(event, stream), as_event(address))

    def address_done(self, _result: None, event: Any) -> None:  # noqa: ANN401
        if address := _address(event):
            self.ledger.finished(as_event(address))

    def address_asked(self, done: object, event: Any) -> None:  # noqa: ANN401
        if done:
            self.address_done(None, event)

    # torch.cuda.Event and torch.cuda.Stream.

    def recorded(self, _result: None, event: Any, stream: Any = None) -> None:  # noqa: ANN401
        self.ledger.recorded(_stream(stream), as_event(event))

    def waited(self, _result: None, event: Any, stream: Any = None) -> None:  # noqa: ANN401
        if event.cuda_event:  # else it was never recorded, and nothing has waited
            self.ledger.waited(_stream(stream), as_event(event))

    def event_done(self, _result: None, event: Any) -> None:  # noqa: ANN401
        if event.cuda_event:
            self.ledger.finished(as_event(event))

    def event_asked(self, done: object, event: Any) -> None:  # noqa: ANN401
        if done:
            self.event_done(None, event)

    def stream_done(self, _result: None, stream: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_stream(stream))

    def stream_asked(self, done: object, stream: Any) -> None:  # noqa: ANN401
        if done:
            self.ledger.finished(as_stream(stream))

    def device_done(self, _result: None, device: Any = None) -> None:  # noqa: ANN401
        index = torch.cuda._utils._get_device_index(device, optional=True)
        self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.primary_context(index))


def _seen(event: Any, stream: Any) -> ExternalStream:  # noqa: ANN401
    """What a ``torch.Event`` is recorded on, or waited for by: a stream whose events are seen, though by address."""
    found = _stream_of(event.device) if stream is None else as_stream(stream)
    return ExternalStream(found.cuda_stream, found.device, owner=SEEN)


def _address(event: Any) -> int:  # noqa: ANN401
    """Of a ``torch.Event``; 0 as long as it was not recorded, or is not a GPU's."""
    return int(event.event_id) if event.device.type == "cuda" else 0


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a ledger of each operator that touches memory of a GPU."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let code be compiled as it would be without us: PyTorch would run it uncompiled, or refuse to."""
        return True

    def __init__(self, ledger: "Ledger") -> None:
        """Tell *ledger*."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._recorded: dict[Layout, dict[ExternalStream, None]] = {}

    def __exit__(self, *raised: object) -> None:
        """Leave it, and leave those where they are that were entered after it: PyTorch would leave the last one."""
        stack = _get_current_dispatch_mode_stack()
        later = stack[stack.index(self) + 1 :] if self in stack else []
        for mode in reversed(later):
            TorchDispatchMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        for mode in later:
            TorchDispatchMode.__enter__(mode)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run the operator, and tell."""
        if not all(map(_is_plain, types)):
            return NotImplemented  # their class is asked next, and what it makes of the operator comes here
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(func, torch._ops.HigherOrderOperator):
            self._run_unseen(func, args, kwargs, result)
            return result
        if func is torch.ops.aten.record_stream.default:
            self._record(*args)
            return result
        self._give_again(func, result)
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

    def _record(self, tensor: torch.Tensor, stream: torch.Stream) -> None:
        """PyTorch's pool will give the tensor's memory to nobody before *stream* is done with it."""
        if on_gpu(tensor):
            self._recorded.setdefault(_memory(tensor), {})[as_stream(stream)] = None

    def _give_again(self, func: Any, result: Any) -> None:  # noqa: ANN401
        """Where a new tensor lies in such memory, the old one has gone, and the pool has waited."""
        for new in (_memory(leaf) for leaf in tree_leaves(_new(func, result)) if self._recorded and _is_seen(leaf)):
            for memory in [old for old in list(self._recorded) if old.start < new.stop and new.start < old.stop]:
                for stream in self._recorded.pop(memory, ()):
                    self._ledger.is_left(memory, stream)

    def _run_unseen(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:  # noqa: ANN401
        """Tell of what calls functions of the user's, such as torch.cond: the operators in these cannot be seen."""
        touched = [(leaf, Kind.MAYBE) for leaf in tree_leaves((args, kwargs)) if _is_seen(leaf)]
        touched += [(leaf, Kind.WRITE) for leaf in tree_leaves(result) if _is_seen(leaf)]
        streams = {tensor.device: _stream_of(tensor.device) for tensor, _ in touched}
        doubt = f"what PyTorch's {func} runs cannot be seen"
        self._ledger.suppose_all(doubt)
        self._tell(touched, streams, str(func))
        self._ledger.suppose_all(doubt)

    def _order_unseen(self, streams: list[ExternalStream], *, copies: bool, unseen: bool) -> None:
        if unseen:
            self._ledger.suppose_all(
                "PyTorch orders streams out of sight: in backward passes, in collectives, and across devices"
            )
        if copies:
            for one, other in itertools.permutations(streams, 2):
                self._ledger.joined(one, other)


def _touched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[tuple[Any, Kind]]:  # noqa: ANN401
    """The tensors on a GPU whose elements an operator reads or writes: what writes, writes only."""
    if torch.Tag.inplace_view in func.tags:
        return []  # t_() and its like: other shapes and strides, and no element
    name = func._schema.name.partition("::")[2]
    kinds: dict[int, tuple[Any, Kind]] = {}

    def touch(value: Any, kind: Kind) -> None:  # noqa: ANN401
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


def _new(func: Any, result: Any) -> list[Any]:  # noqa: ANN401
    """Of what an operator returns, that which is no view of an argument."""
    results = [result] if len(func._schema.returns) == 1 else result or []
    return [value for returned, value in zip(func._schema.returns, results, strict=False) if not returned.alias_info]


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    arguments = func._schema.arguments
    yield from zip(arguments, args, strict=False)
    yield from ((argument, kwargs[argument.name]) for argument in arguments if argument.name in kwargs)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:  # noqa: ANN401
    """Whether the host comes back only when the device is done: it has got data, or copied some, and may not go on."""
    given = {argument.name: value for argument, value in _arguments(func, args, kwargs)}
    name = func._schema.name
    if name in _INDEXING:
        return _indexing_waits(given["indices"], given.get("values"))
    if name in _CHECKS or (not _WAITS.isdisjoint(func.tags) and given.get("output_size") is None):
        return True
    if given.get("non_blocking"):
        return False
    # PyTorch's Copy.cu: what is not asked to go on waits, to the host and from it, pinned or not.
    return any(_on_host(leaf) for leaf in tree_leaves((args, kwargs, result) if name in _COPIES else result))


def _indexing_waits(indices: list[Any], values: Any) -> bool:  # noqa: ANN401
    """Whether PyTorch counts what a mask lets through, or copies from the host, as its IndexingUtils.h does."""
    indices = [index for index in indices if index is not None]
    masks = [index for index in indices if index.dtype in _MASKS]
    if _on_host(values):
        is_fill = values.numel() == 1 and len(indices) == len(masks) == 1 and not _on_host(masks[0])
        return not is_fill
    # Masks of the host are counted there, and what comes of it is copied without waiting.
    return any(_on_host(index) is not (index.dtype in _MASKS) for index in indices)


def _on_host(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and not on_gpu(value)


def _layout(tensor: torch.Tensor) -> Layout:
    size = tensor.element_size()
    strides = tuple(size * stride for stride in tensor.stride())
    return Layout.of(tensor.data_ptr(), tuple(tensor.shape), strides, size)


def _memory(tensor: torch.Tensor) -> Layout:
    storage = tensor.untyped_storage()
    return Layout.of(storage.data_ptr(), (storage.nbytes(),), None, 1)


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether it has memory on a GPU that can be told of: what a compiler traces has none, nor what wraps others."""
    return tensor.is_cuda and not tensor.is_nested and _is_plain(type(tensor))


def _is_plain(cls: type) -> bool:
    """Whether PyTorch's operators work on tensors of the class, and no code of the class's own."""
    return cls.__torch_dispatch__ is torch.Tensor.__torch_dispatch__  # type: ignore[attr-defined]


def _stream(stream: Any) -> ExternalStream:  # noqa: ANN401
    return as_stream(torch.cuda.current_stream() if stream is None else stream)


def _stream_of(device: torch.device) -> ExternalStream:
    return as_stream(torch.cuda.current_stream(device))
