"""What happens to an array that one library hands to another, on another stream: by default, and through interop.

Each case runs behind a gate, which holds one stream up. Another process opens the gate if the host is blocked. So the
outcome does not depend on luck, and a library that blocks the host is detected.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import interop
from interop.errors import LibraryNotFoundError
from interop.matrix.libraries import LIBRARIES, Library, Numba
from interop.stream import ExternalStream
from interop.testing import gate

STALE, WRITTEN, BACK = 1, 7, 9
OPENS_AFTER: Final = 0.3
"""Seconds after which the gate opens by itself, so that a blocked host goes on."""
PROMPT: Final = 0.05
"""Seconds in which work that waits for nothing is done."""

ORDERED, RACE, BLOCKED, FAILED, NONE = "ordered", "RACE", "host blocked", "error", "-"
HANDOFF, BORROW = "interop.handoff", "interop.borrow"
OURS: Final = (HANDOFF, BORROW)
WHEN: Final = ("inside", "after", "back")


_Way = tuple[Library, Library, str]
"""Producer, consumer and route."""


class _Case(NamedTuple):
    producer: Library
    consumer: Library
    route: str
    when: str


def measure(
    only: list[str] | None = None, progress: Callable[[list[_Way]], Iterable[_Way]] = iter
) -> list[dict[str, str]]:
    """Run every case.

    Args:
        only: the names of the libraries; by default all installed ones.
        progress: is given all ways from producer to consumer, and yields them one after the other, as a progress bar
            does.

    Returns:
        A row for each producer, consumer and route, with three outcomes. ``"inside"``: the array is handed over inside
        the producer's ``with stream:`` block, and the consumer reads what the producer wrote. ``"after"``: likewise,
        after the block. ``"back"``: the consumer writes in place and gives the array back, and the producer reads it.
        An outcome is ``"ordered"``, ``"RACE"``, ``"host blocked"``, ``"error: ..."``, or ``"-"`` if there is no such
        case.

    Raises:
        NoDeviceError: there is no GPU.
        ValueError: *only* names a library that is not in the matrix, or leaves no pair of libraries.
        LibraryNotFoundError: *only* names a library that is not installed.
    """
    interop.new_stream()
    libraries = _taken(only)
    ways = [
        (producer, consumer, route)
        for producer in libraries
        for consumer in libraries
        # A library orders its own streams; but Numba's arrays are bound to none.
        if consumer.routes and (consumer is not producer or isinstance(producer, Numba))
        for route in (*consumer.routes, *OURS)
    ]
    if not ways:
        taken = ", ".join(library.name for library in libraries) or "none of them is installed"
        message = f"there is no pair of a library that gives arrays and another one that takes them: {taken}"
        raise ValueError(message)
    return [
        {
            "producer": producer.name,
            "consumer": consumer.name,
            "route": route,
            **{when: _outcome(_Case(producer, consumer, route, when)) for when in WHEN},
        }
        for producer, consumer, route in progress(ways)
    ]


def _taken(only: list[str] | None) -> list[Library]:
    names = None if only is None else [name.strip() for name in only]
    wrong = set(names or ()) - LIBRARIES.keys()
    if wrong:
        message = f"no such library here: {', '.join(sorted(wrong))}; there are {', '.join(LIBRARIES)}"
        raise ValueError(message)
    libraries = []
    for name, kind in LIBRARIES.items():
        if names is None or name in names:
            try:
                libraries.append(kind())
            except ModuleNotFoundError as error:
                if names is not None:
                    message = f"{name} cannot be taken: {error.name} is not installed"
                    raise LibraryNotFoundError(message, name=error.name) from error
    return libraries


def _outcome(case: _Case) -> str:
    immutable = case.producer.immutable or case.consumer.immutable
    # JAX uses a borrowed array on streams of its own, for which the producer cannot wait at the end of the block.
    if (case.when == "back" and immutable) or (case.route == BORROW and case.consumer.immutable):
        return NONE
    run = _back if case.when == "back" else _there
    try:
        return run(case)
    except Exception as error:  # noqa: BLE001  (that the library refuses is an outcome too)
        return f"{FAILED}: {type(error).__name__}"


def _handed_over(case: _Case, source: Any, p: ExternalStream, c: ExternalStream, borrowed: contextlib.ExitStack) -> Any:
    """The consumer's array over *source*."""
    into = case.consumer.name
    if case.route == HANDOFF:
        return interop.handoff(source, c, producer=p, into=into)
    if case.route == BORROW:
        return borrowed.enter_context(interop.borrow(source, consumer=c, producer=p, into=into))
    with case.consumer.current(c):
        return case.consumer.routes[case.route](source, c)


def _there(case: _Case) -> str:
    """The producer writes and hands over while its stream is held up; the consumer reads."""
    producer, consumer = case.producer, case.consumer
    memory, target = producer.array(), consumer.array()
    p, c = interop.new_stream(), interop.new_stream()

    def run(borrowed: contextlib.ExitStack) -> tuple[Any, ...]:
        with contextlib.ExitStack() as block:
            block.enter_context(producer.current(p))
            source = producer.write(memory, WRITTEN, p)
            if case.when == "after":
                block.close()
            view = _handed_over(case, source, p, c, borrowed)
            return source, view, consumer.read(view, target, c)  # some libraries convert only here

    with contextlib.ExitStack() as borrowed:
        kept = run(borrowed)  # compiles and loads everything
        _settle(p, c)
        consumer.values(kept[-1])
    del kept
    producer.write(memory, STALE, p)
    _settle(p, c)
    with contextlib.ExitStack() as borrowed:
        # The gate raises AssertionError if it has opened by itself.
        with contextlib.suppress(AssertionError), gate(p, timeout=OPENS_AFTER) as shut:
            kept = run(borrowed)
            blocked = shut.is_open
            with contextlib.suppress(TimeoutError):
                c.synchronize(timeout=0 if blocked else PROMPT)
        _settle(p, c)
        return _verdict(set(consumer.values(kept[-1]).tolist()), WRITTEN, blocked=blocked)


def _back(case: _Case) -> str:
    """The consumer writes in place while its stream is held up; the array is given back, and the producer reads."""
    producer, consumer = case.producer, case.consumer
    source, target = producer.array(), producer.array()
    p, c = interop.new_stream(), interop.new_stream()

    def run() -> None:
        with contextlib.ExitStack() as borrowed:
            view = _handed_over(case, source, p, c, borrowed)
            consumer.write(view, BACK, c)
            del view
        producer.read(source, target, p)

    producer.write(source, STALE, p)
    _settle(p, c)
    run()
    _settle(p, c)
    producer.write(source, STALE, p)
    _settle(p, c)
    with contextlib.suppress(AssertionError), gate(c, timeout=OPENS_AFTER) as shut:
        run()
        blocked = shut.is_open
        with contextlib.suppress(TimeoutError):
            p.synchronize(timeout=0 if blocked else PROMPT)
    _settle(p, c)
    return _verdict(set(producer.values(target).tolist()), BACK, blocked=blocked)


def _verdict(seen: set[int], expected: int, *, blocked: bool) -> str:
    if seen != {expected}:
        return RACE
    return BLOCKED if blocked else ORDERED


def _settle(*streams: ExternalStream) -> None:
    for stream in streams:
        stream.synchronize()
