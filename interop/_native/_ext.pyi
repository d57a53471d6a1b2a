from collections.abc import Callable
from typing import Any, NoReturn

from interop._native.plain import EventFields as EventFields
from interop._native.plain import Pool as Pool
from interop._native.plain import StreamFields as StreamFields

def accelerate(
    stream_class: type[StreamFields],
    event_class: type[EventFields],
    as_stream: Callable[..., Any],
    known: dict[int, Any],
    by_type: dict[type, tuple[Any, ...]],
    flags: int,
    refuse_event: Callable[..., NoReturn],
    /,
) -> Callable[..., Any]: ...
def activate(cuda: object, /) -> None: ...
def bind(addresses: tuple[int, ...], cuda: object, pools: dict[int, Pool], /) -> None: ...
def create_events(count: int, flags: int, /) -> list[int]: ...
def dlpack_capsule(
    owner: object,
    versioned: bool,
    read_only: bool,
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: tuple[int, ...],
    device: tuple[int, int],
    /,
) -> object: ...
def readable(address: int, /) -> bool: ...
def record_handle(stream: StreamFields, event: int, /) -> bool: ...
def watch(on: bool, /) -> None: ...
