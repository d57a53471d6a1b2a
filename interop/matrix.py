"""What happens to an array that one library hands to another, on another stream: by default, and through interop.

Each case is run behind a gate, which holds the producer's stream up and is opened by another process if the host does
not get that far: so there is no luck in the answer, and a library that blocks the host is seen to.
"""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

import interop
from interop.errors import NoDeviceError
from interop.stream import ExternalStream
from interop.testing import gate

SIZE = 1 << 18
STALE, WRITTEN = 1.0, 7.0
OPENS_AFTER = 0.3
"""Seconds after which the gate opens itself: a host that is blocked goes on then."""
PROMPT = 0.1
"""Seconds within which work that waits for nothing is done."""

ORDERED, RACE, BLOCKED, FAILED = "ordered", "RACE", "host blocked", "error"
OURS = "interop.handoff"


class Library(Protocol):
    """One library, in its own words."""

    name: str
    routes: dict[str, Callable[[Any], Any]]

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        """Make *stream* the library's current one, if it has such a thing."""

    def array(self) -> Any:  # noqa: ANN401
        """An array of SIZE numbers."""

    def write(self, array: Any, value: float, stream: ExternalStream) -> None:  # noqa: ANN401
        """Write *value* into all of the library's own *array*, on *stream*."""

    def read(self, view: Any, target: Any, stream: ExternalStream) -> None:  # noqa: ANN401
        """Copy what *view* holds into the library's own *target*, on *stream*."""

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":  # noqa: ANN401
        """What is in the library's own *target*, when everything is done."""


class _Cupy:
    name = "cupy"

    def __init__(self) -> None:
        self._cupy = cupy = importlib.import_module("cupy")
        self.routes: dict[str, Callable[[Any], Any]] = {
            "cupy.asarray": cupy.asarray,
            "cupy.from_dlpack": cupy.from_dlpack,
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        return interop.use(stream, "cupy")

    def array(self) -> Any:  # noqa: ANN401
        return self._cupy.zeros(SIZE)

    def write(self, array: Any, value: float, stream: ExternalStream) -> None:  # noqa: ANN401
        with self.current(stream):
            array.fill(value)

    def read(self, view: Any, target: Any, stream: ExternalStream) -> None:  # noqa: ANN401
        with self.current(stream):
            self._cupy.copyto(target, view)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":  # noqa: ANN401
        return np.asarray(target.get())


class _Torch:
    name = "torch"

    def __init__(self) -> None:
        self._torch = torch = importlib.import_module("torch")
        self.routes: dict[str, Callable[[Any], Any]] = {
            "torch.as_tensor": lambda array: torch.as_tensor(array, device="cuda"),
            "torch.from_dlpack": torch.from_dlpack,
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        return interop.use(stream, "torch")

    def array(self) -> Any:  # noqa: ANN401
        return self._torch.zeros(SIZE, dtype=self._torch.float64, device="cuda")

    def write(self, array: Any, value: float, stream: ExternalStream) -> None:  # noqa: ANN401
        with self.current(stream):
            array.fill_(value)

    def read(self, view: Any, target: Any, stream: ExternalStream) -> None:  # noqa: ANN401
        with self.current(stream):
            target.copy_(view)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":  # noqa: ANN401
        return np.asarray(target.cpu().numpy())


class _Numba:
    name = "numba"

    def __init__(self) -> None:
        self._cuda = cuda = importlib.import_module("numba.cuda")
        self.routes: dict[str, Callable[[Any], Any]] = {
            "numba.cuda.as_cuda_array": cuda.as_cuda_array,
            "Numba kernel argument": lambda array: array,
        }

        @cuda.jit("void(float64[::1], float64)")  # type: ignore[untyped-decorator]
        def fill(target: Any, value: Any) -> None:  # noqa: ANN401
            i = cuda.grid(1)
            if i < target.size:
                target[i] = value

        @cuda.jit("void(float64[::1], float64[::1])")  # type: ignore[untyped-decorator]
        def copy(source: Any, target: Any) -> None:  # noqa: ANN401
            i = cuda.grid(1)
            if i < target.size:
                target[i] = source[i]

        self._fill, self._copy = fill, copy

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002
        return contextlib.nullcontext()

    def array(self) -> Any:  # noqa: ANN401
        return self._cuda.to_device(np.zeros(SIZE))

    def write(self, array: Any, value: float, stream: ExternalStream) -> None:  # noqa: ANN401
        self._fill[SIZE // 256, 256, stream.to("numba")](array, value)

    def read(self, view: Any, target: Any, stream: ExternalStream) -> None:  # noqa: ANN401
        self._copy[SIZE // 256, 256, stream.to("numba")](view, target)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":  # noqa: ANN401
        return np.asarray(target.copy_to_host())


LIBRARIES: dict[str, type[Library]] = {"cupy": _Cupy, "numba": _Numba, "torch": _Torch}


def measure(only: list[str] | None = None) -> list[dict[str, str]]:
    """Run every case; a row each: producer, consumer, route, the outcome "inside" the producer's block, and "after" it.

    Args:
        only: names of the libraries to take; by default all that are installed.

    Raises:
        NoDeviceError: there is no GPU.
        ValueError: *only* names something else than CuPy, Numba and PyTorch by import path.
    """
    interop.new_stream()
    wrong = set(only or ()) - LIBRARIES.keys()
    if wrong:
        message = f"no such library here: {', '.join(sorted(wrong))}; there are {', '.join(LIBRARIES)}"
        raise ValueError(message)
    libraries = []
    for name, kind in LIBRARIES.items():
        if only is None or name in only:
            with contextlib.nullcontext() if only else contextlib.suppress(ModuleNotFoundError):
                libraries.append(kind())
    rows = []
    for producer in libraries:
        for consumer in libraries:
            if consumer is producer and producer.name != "numba":
                continue  # inside one library, its own streams are its own affair; Numba's bind to nothing
            for route in (*consumer.routes, OURS):
                outcomes = {
                    when: _outcome(producer, consumer, route, inside=when == "inside") for when in ("inside", "after")
                }
                rows.append({"producer": producer.name, "consumer": consumer.name, "route": route, **outcomes})
    return rows


def _outcome(producer: Library, consumer: Library, route: str, *, inside: bool) -> str:
    source, target = producer.array(), consumer.array()
    p, c = interop.new_stream(), interop.new_stream()

    def hand_over() -> object:
        with consumer.current(c):
            if route == OURS:
                return interop.handoff(source, c, producer=p, into=consumer.name)
            return consumer.routes[route](source)

    def run() -> object:
        with contextlib.ExitStack() as block:
            block.enter_context(producer.current(p))
            producer.write(source, WRITTEN, p)
            if not inside:
                block.close()
            view = hand_over()
            consumer.read(view, target, c)  # for some, this is where the conversion is
            return view

    try:
        run()  # everything is compiled and loaded now
        _settle(p, c)
        producer.write(source, STALE, p)
        _settle(p, c)
        with contextlib.suppress(AssertionError), gate(p, timeout=OPENS_AFTER) as shut:  # which says that it was late
            view = run()
            blocked = shut.is_open
            with contextlib.suppress(TimeoutError):
                c.synchronize(timeout=0 if blocked else PROMPT)
        _settle(p, c)
    except Exception as error:  # noqa: BLE001  (a library's own refusal is an outcome too)
        return f"{FAILED}: {type(error).__name__}"
    seen = set(consumer.values(target).tolist())
    del view
    if seen != {WRITTEN}:
        return RACE
    return BLOCKED if blocked else ORDERED


def _settle(*streams: ExternalStream) -> None:
    for stream in streams:
        stream.synchronize()


def main(*, as_json: bool, only: list[str] | None, console: Console | None = None) -> int:
    """Print the table, or its rows as JSON; the exit status: 0 if everything through interop was ordered and free."""
    console = console or Console(highlight=False)
    try:
        rows = measure(only)
    except (NoDeviceError, ValueError) as error:
        Console(stderr=True, highlight=False).print(
            f"the matrix needs a GPU, and real libraries: {error}", soft_wrap=True
        )
        return 2
    if as_json:
        console.print_json(json.dumps(rows))
    else:
        console.print(_table(rows))
    return 0 if all(row["inside"] == row["after"] == ORDERED for row in rows if row["route"] == OURS) else 1


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table("from", "by", "inside the producer's `with stream:`", "after it", title="Arrays, handed over")
    for row in rows:
        table.add_row(row["producer"], row["route"], *(_coloured(row[when]) for when in ("inside", "after")))
    return table


def _coloured(outcome: str) -> str:
    colour = {ORDERED: "green", BLOCKED: "yellow"}.get(outcome, "red")
    return f"[{colour}]{outcome}[/{colour}]"


def markdown(rows: list[dict[str, str]]) -> Iterator[str]:
    """The lines of a table for a README."""
    yield "| from one stream to another | inside the writer's `with stream:` | after it |"
    yield "|---|---|---|"
    names = {"cupy": "CuPy", "numba": "Numba", "torch": "PyTorch"}
    for row in rows:
        route = row["route"] if " " in row["route"] else f"`{row['route']}`"
        if row["route"] == OURS:
            route = f"**`{OURS}`** to {names[row['consumer']]}"
        outcomes = (row[when].partition(":")[0] for when in ("inside", "after"))
        shown = " | ".join(f"**{outcome}**" if outcome == RACE else outcome for outcome in outcomes)
        yield f"| {names[row['producer']]} → {route} | {shown} |"
