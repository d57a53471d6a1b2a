"""One array, written by two or three libraries in turns, each on its own stream: what the order between them costs."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, Protocol

import interop
from benchmarks.lab import BLOCKS, THREADS, Lab
from benchmarks.measure import Batch, Operation, Timed

MOST_ROUNDS: Final = 60
GAMES: Final = (("CuPy", "Numba"), ("CuPy", "torch"), ("torch", "Numba"), ("CuPy", "Numba", "torch"))

SHARED: Final = "one shared stream"
"""What the others are compared with: no order is needed there, only launches are left."""
HOST: Final = "host synchronises"
DEFAULT: Final = "each reads the other's array interface"
BY_WAIT: Final = "interop, wait_stream"
BY_HANDOFF: Final = "interop, handoff"
BY_KEPT_HANDOFF: Final = "interop, handoff, views kept"
BY_NEW_HANDOFF: Final = "interop, handoff, new each round"

_FIRST_STREAM: Final = 50


class WrongValuesError(Exception):
    """Not every write was seen by the next one."""


class Player(Protocol):
    """One library, with a stream of its own, and its own view of the array."""

    library: str
    """As interop knows it."""
    stream: interop.ExternalStream
    native: Any
    """The stream, as the library's own object."""
    view: Any
    """Of the memory that all share."""
    kept: dict[str, Any]
    """What was handed to each library, from one batch to the next."""

    def launch(self, view: Any) -> None:
        """Add one to each element, on the stream."""

    def convert(self, array: Any) -> Any:
        """Another library's array as one of its own, as the library does it by itself."""

    def synchronize(self) -> None:
        """Block the host until the stream's work is done, as the library does it."""

    def current(self) -> contextlib.AbstractContextManager[object]:
        """Make the stream the library's current one, if it has such a thing."""


class _Base:
    library: str
    name: str

    def __init__(self, lab: Lab, number: int, base: Any) -> None:
        self._lab = lab
        self.stream = lab.owned(number)
        self.native = lab.lasting(self.name, number)
        self.view = interop.handoff(base, self.stream, producer=self.stream, into=self.library)
        self.kept: dict[str, Any] = {}

    def synchronize(self) -> None:
        self.native.synchronize()

    def current(self) -> contextlib.AbstractContextManager[object]:
        return interop.use(self.stream, self.library)


class CupyPlayer(_Base):
    """CuPy."""

    library, name = "cupy", "CuPy"

    def launch(self, view: Any) -> None:
        """On CuPy's current stream."""
        cupy = self._lab.module("CuPy")
        cupy.add(view, 1, out=view)

    def convert(self, array: Any) -> Any:
        """Blocks the host until the stream is done that the array states."""
        return self._lab.module("CuPy").asarray(array)


class TorchPlayer(_Base):
    """PyTorch."""

    library, name = "torch", "torch"

    def launch(self, view: Any) -> None:
        """On torch's current stream."""
        view.add_(1)

    def convert(self, array: Any) -> Any:
        """Orders nothing."""
        return self._lab.module("torch").as_tensor(array, device="cuda")


class NumbaPlayer(_Base):
    """Numba."""

    library, name = "numba", "Numba"

    def __init__(self, lab: Lab, number: int, base: Any) -> None:
        """Bind the view, and compile the kernel."""
        super().__init__(lab, number, base)
        # So that it states its stream to those that convert it.
        self.view = self.view.bind(self.native)
        self._kernel = lab.numba_kernel()

    def launch(self, view: Any) -> None:
        """On its stream, which the launch names."""
        self._kernel[BLOCKS, THREADS, self.native](view)

    def convert(self, array: Any) -> Any:
        """Blocks the host until the stream is done that the array states."""
        return self._lab.module("Numba").as_cuda_array(array)

    def current(self) -> contextlib.AbstractContextManager[object]:
        """It has none."""
        return contextlib.nullcontext()


PLAYERS: Final[dict[str, Callable[[Lab, int, Any], Player]]] = {
    "CuPy": CupyPlayer,
    "torch": TorchPlayer,
    "Numba": NumbaPlayer,
}


def shared(players: Sequence[Player], n: int) -> None:
    """Nothing between the launches: right only if all the streams are one."""
    for _ in range(n):
        for player in players:
            player.launch(player.view)


def host(players: Sequence[Player], n: int) -> None:
    """The host waits after each launch."""
    for _ in range(n):
        for player in players:
            player.launch(player.view)
            player.synchronize()


def default(players: Sequence[Player], n: int) -> None:
    """Each converts the array of the one before it, and leaves the order to that."""
    view = players[-1].view
    for _ in range(n):
        for player in players:
            view = player.convert(view)
            player.launch(view)
            view = player.view


def by_wait(players: Sequence[Player], n: int) -> None:
    """Each stream waits for the one before it."""
    previous = players[-1]
    for _ in range(n):
        for player in players:
            player.stream.wait_stream(previous.stream)
            player.launch(player.view)
            previous = player


def by_handoff(players: Sequence[Player], n: int) -> None:
    """The array is handed around; the views are kept for the next round, where it is the same hand-over again."""
    _hand_around(players, n, {})


def by_kept_handoff(players: Sequence[Player], n: int) -> None:
    """Likewise, with the views kept from the rounds before: no array is converted."""
    _hand_around(players, n, players[0].kept)


def _hand_around(players: Sequence[Player], n: int, kept: dict[str, Any]) -> None:
    first = players[0]
    for _ in range(n):
        view = first.view
        first.launch(view)
        for giver, taker in pairwise([*players, first]):
            view = interop.handoff(view, taker.stream, producer=giver.stream, into=taker.library)
            kept[taker.library] = view
            if taker is not first:
                taker.launch(view)


def by_new_handoff(players: Sequence[Player], n: int) -> None:
    """The array is handed from each to the next, and when the views go, the streams wait for each other backwards."""
    first = players[0]
    for _ in range(n):
        first.launch(first.view)
        views = [first.view]
        for giver, taker in pairwise(players):
            view = interop.handoff(views[-1], taker.stream, producer=giver.stream, into=taker.library)
            taker.launch(view)
            views.append(view)
        del view
        while len(views) > 1:
            views.pop()


WAYS: Final[dict[str, Callable[[Sequence[Player], int], None]]] = {
    SHARED: shared,
    HOST: host,
    DEFAULT: default,
    BY_WAIT: by_wait,
    BY_HANDOFF: by_handoff,
    BY_KEPT_HANDOFF: by_kept_handoff,
    BY_NEW_HANDOFF: by_new_handoff,
}


def all_operations(lab: Lab) -> list[Operation]:
    """One for each game."""
    return [_operation(lab, libraries) for libraries in GAMES]


def _operation(lab: Lab, libraries: Sequence[str]) -> Operation:
    rows = [
        Timed(label, (way.__doc__ or "").strip(), partial(_game, lab, libraries, label)) for label, way in WAYS.items()
    ]
    return Operation(" <-> ".join(libraries), rows, MOST_ROUNDS, group="ping-pong")


def _game(lab: Lab, libraries: Sequence[str], label: str) -> Batch:
    """A round is over when each has written once. The time is the host's, and the wait for the last round's end."""
    base = lab.new_array(libraries[0])
    players = [
        PLAYERS[library](lab, _FIRST_STREAM + (0 if label == SHARED else place), base)
        for place, library in enumerate(libraries)
    ]
    lab.drain()
    written = 0

    def batch(n: int) -> float:
        nonlocal written
        with contextlib.ExitStack() as block:
            for player in players:
                block.enter_context(player.current())
            start = time.perf_counter_ns()
            WAYS[label](players, n)
            for player in players:
                player.synchronize()
            took = time.perf_counter_ns() - start
        written += n * len(players)
        if label != DEFAULT:  # which orders not every pair, and is shown for what it costs
            seen = _values(players[0])
            if seen != {written}:
                message = f"{label}: {sorted(seen)} instead of {written}"
                raise WrongValuesError(message)
        return took

    return batch


def _values(player: Player) -> set[int]:
    """What is in the array, when everything is done."""
    array = player.view
    return set((array.get() if player.library == "cupy" else array.cpu().numpy()).tolist())
