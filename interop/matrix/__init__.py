"""What happens to an array that one library hands to another, on another stream: by default, and through interop.

Each case is run behind a gate, which holds one stream up and is opened by another process if the host does not get
that far: so there is no luck in the answer, and a library that blocks the host is seen to.
"""

import contextlib
from typing import Any, Final, NamedTuple

import interop
from interop.errors import LibraryNotFoundError
from interop.matrix.libraries import LIBRARIES, Library
from interop.stream import ExternalStream
from interop.testing import gate

STALE, WRITTEN, BACK = 1, 7, 9
OPENS_AFTER: Final = 0.3
"""Seconds after which the gate opens itself: a host that is blocked goes on then."""
PROMPT: Final = 0.05
"""Seconds within which work that waits for nothing is done."""

ORDERED, RACE, BLOCKED, FAILED, NONE = "ordered", "RACE", "host blocked", "error", "-"
HANDOFF, BORROW = "interop.handoff", "interop.borrow"
OURS: Final = (HANDOFF, BORROW)
WHEN: Final = ("inside", "after", "back")


class _Case(NamedTuple):
    producer: Library
    consumer: Library
    route: str
    when: str


def measure(only: list[str] | None = None) -> list[dict[str, str]]:
    """Run every case.

    Args:
        only: names of the libraries to take; by default all that are installed.

    Returns:
        A row for each producer, consumer and route, with the outcomes: whether the consumer reads what the producer
        writes, if the array is handed over "inside" the producer's block, and "after" it; and whether the producer
        reads what the consumer has written in place, once the array is given "back". An outcome is ``"ordered"``,
        ``"RACE"``, ``"host blocked"``, ``"error: ..."``, or ``"-"`` for what the library does not have.

    Raises:
        NoDeviceError: there is no GPU.
        ValueError: *only* names a library that is not one of the matrix, or leaves no pair of two.
        LibraryNotFoundError: *only* names a library that is not installed.
    """
    interop.new_stream()
    libraries = _taken(only)
    rows = []
    for producer in libraries:
        for consumer in libraries:
            if not consumer.routes or (consumer is producer and producer.name != "numba"):
                continue  # inside one library, its own streams are its own affair; Numba's bind to nothing
            for route in (*consumer.routes, *OURS):
                outcomes = {when: _outcome(_Case(producer, consumer, route, when)) for when in WHEN}
                rows.append({"producer": producer.name, "consumer": consumer.name, "route": route, **outcomes})
    if not rows:
        taken = ", ".join(library.name for library in libraries) or "none of them is installed"
        message = f"there is no pair of a library that gives arrays and another one that takes them: {taken}"
        raise ValueError(message)
    return rows


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
    # What JAX does with an array that it was lent, it does on streams of its own, which nobody can wait for.
    if (case.when == "back" and immutable) or (case.route == BORROW and case.consumer.immutable):
        return NONE
    run = _back if case.when == "back" else _there
    try:
        return run(case)
    except Exception as error:  # noqa: BLE001  (a library's own refusal is an outcome too)
        return f"{FAILED}: {type(error).__name__}"


def _lent(case: _Case, source: Any, p: ExternalStream, c: ExternalStream, block: contextlib.ExitStack) -> Any:  # noqa: ANN401
    """The array, as the consumer's."""
    into = case.consumer.name
    if case.route == HANDOFF:
        return interop.handoff(source, c, producer=p, into=into)
    if case.route == BORROW:
        return block.enter_context(interop.borrow(source, consumer=c, producer=p, into=into))
    with case.consumer.current(c):
        return case.consumer.routes[case.route](source, c)


def _there(case: _Case) -> str:
    """The producer's stream is held up while it writes and hands over; the consumer reads."""
    producer, consumer = case.producer, case.consumer
    memory, target = producer.array(), consumer.array()
    p, c = interop.new_stream(), interop.new_stream()

    def run(lent: contextlib.ExitStack) -> tuple[Any, ...]:
        with contextlib.ExitStack() as block:
            block.enter_context(producer.current(p))
            source = producer.write(memory, WRITTEN, p)
            if case.when == "after":
                block.close()
            view = _lent(case, source, p, c, lent)
            return source, view, consumer.read(view, target, c)  # for some, this is where the conversion is

    with contextlib.ExitStack() as lent:
        kept = run(lent)  # everything is compiled and loaded now
        _settle(p, c)
        consumer.values(kept[-1])
    del kept
    producer.write(memory, STALE, p)
    _settle(p, c)
    with contextlib.ExitStack() as lent:
        with contextlib.suppress(AssertionError), gate(p, timeout=OPENS_AFTER) as shut:  # which says that it was late
            kept = run(lent)
            blocked = shut.is_open
            with contextlib.suppress(TimeoutError):
                c.synchronize(timeout=0 if blocked else PROMPT)
        _settle(p, c)
        return _verdict(set(consumer.values(kept[-1]).tolist()), WRITTEN, blocked=blocked)


def _back(case: _Case) -> str:
    """The consumer's stream is held up while it writes in place; the array is given back, and the producer reads."""
    producer, consumer = case.producer, case.consumer
    source, target = producer.array(), producer.array()
    p, c = interop.new_stream(), interop.new_stream()

    def run() -> None:
        with contextlib.ExitStack() as lent:
            view = _lent(case, source, p, c, lent)
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
