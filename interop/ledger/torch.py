"""PyTorch, watched: its operators, by their schemas; its streams and events; its waits for the device."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interop import _cudart
from interop.event import as_event
from interop.ledger.memory import Kind, Layout
from interop.ledger.patch import told
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger

_COPIES: Final = ("aten::copy_", "aten::_to_copy")
_COLLECTIVES: Final = ("c10d", "_c10d_functional")
_WAITS: Final = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
"""Operators of which Python gets to know something that is in the data: they wait for it."""
_LEAVES_ALONE: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""Operators that write nothing into what they return."""
_READS_SHAPE: Final = ("new_", "_like")
"""In the names of operators that look at their argument's shape only."""


@contextlib.contextmanager
def watch(ledger: "Ledger") -> Iterator[None]:
    """Tell *ledger* what PyTorch does; of its operators, in the calling thread and its backward passes only."""
    eyes = _Eyes(ledger)
    with contextlib.ExitStack() as undo:
        for change in (
            told(torch.cuda.Event, "record", eyes.recorded),
            told(torch.cuda.Event, "wait", eyes.waited),
            told(torch.cuda.Event, "synchronize", eyes.event_done),
            told(torch.cuda.Event, "query", eyes.event_asked),
            told(torch.cuda.Stream, "synchronize", eyes.stream_done),
            told(torch.cuda.Stream, "query", eyes.stream_asked),
            told(torch.cuda, "synchronize", eyes.device_done),
            Operators(ledger),
        ):
            undo.enter_context(change)
        yield


class _Eyes:
    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

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
        self.ledger.device_is_done(_cudart.GPU, _cudart.GPU.primary_context(index))


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a ledger of each operator that touches memory of a GPU."""

    def __init__(self, ledger: "Ledger") -> None:
        """Tell *ledger*."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run the operator, and tell."""
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        touched = _touched(func, args, kwargs, result)
        if func is torch.ops.aten.record_stream.default or not touched:
            return result
        streams = {tensor.device: _stream_of(tensor.device) for tensor, _ in touched}
        # PyTorch makes the streams of both devices wait for each other, before and after.
        copies = len(streams) > 1 and func._schema.name in _COPIES
        unseen = not copies and (
            len(streams) > 1 or torch._C._current_graph_task_id() != -1 or func.namespace in _COLLECTIVES
        )
        self._order_unseen(list(streams.values()), copies=copies, unseen=unseen)
        for device, stream in streams.items():
            arrays = [(tensor, _layout(tensor), kind) for tensor, kind in touched if tensor.device == device]
            self._ledger.accessed(stream, arrays, f"PyTorch's {func._schema.name}")
            if _waits(func, args, kwargs, result):
                self._ledger.finished(stream)
        self._order_unseen(list(streams.values()), copies=copies, unseen=unseen)
        return result

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
    name = func._schema.name.partition("::")[2]
    kinds: dict[int, tuple[Any, Kind]] = {}

    def touch(value: Any, kind: Kind) -> None:  # noqa: ANN401
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor) and on_gpu(leaf) and leaf.layout is torch.strided:
                kinds[id(leaf)] = (leaf, max(kind, kinds.get(id(leaf), (leaf, kind))[1]))

    for argument, value in _arguments(func, args, kwargs):
        if argument.alias_info is not None and argument.alias_info.is_write:
            touch(value, Kind.WRITE)
        elif argument.alias_info is None and not any(part in name for part in _READS_SHAPE):
            touch(value, Kind.READ)
    for returned, value in zip(func._schema.returns, _outputs(func, result), strict=False):
        if returned.alias_info is None and name not in _LEAVES_ALONE:
            touch(value, Kind.WRITE)
    return list(kinds.values())


def _outputs(func: Any, result: Any) -> Any:  # noqa: ANN401
    return [result] if len(func._schema.returns) == 1 else result or []


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    arguments = func._schema.arguments
    yield from zip(arguments, args, strict=False)
    yield from ((argument, kwargs[argument.name]) for argument in arguments if argument.name in kwargs)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:  # noqa: ANN401
    """Whether the host comes back only when the device is done: it has got data, and did not ask not to wait."""
    if not _WAITS.isdisjoint(func.tags):
        return True
    if any(argument.name == "non_blocking" and value for argument, value in _arguments(func, args, kwargs)):
        return False
    return any(
        isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" and not on_gpu(leaf)
        for leaf in tree_leaves(result)
    )


def _layout(tensor: torch.Tensor) -> Layout:
    size = tensor.element_size()
    strides = tuple(size * stride for stride in tensor.stride())
    return Layout.of(tensor.data_ptr(), tuple(tensor.shape), strides, size)


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether it has memory on a GPU; those that are traced by a compiler have none."""
    return tensor.is_cuda and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _stream(stream: Any) -> ExternalStream:  # noqa: ANN401
    return as_stream(torch.cuda.current_stream() if stream is None else stream)


def _stream_of(device: torch.device) -> ExternalStream:
    return as_stream(torch.cuda.current_stream(device))
