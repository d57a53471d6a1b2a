"""How far a long command is: on a terminal, and only there."""

import io
import itertools

import pytest

import interop
from interop._show import progress

ERASED = "\r\x1b[K"


class Terminal(io.StringIO):
    """Standard error, if it is a terminal."""

    def __init__(self, monkeypatch):
        super().__init__()
        monkeypatch.setattr("sys.stderr", self)

    def isatty(self):
        return True


@pytest.fixture
def seconds(monkeypatch):
    """Each question for the time comes half a second after the one before."""
    clock = itertools.count(0, 0.5)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))


def schedules(gpu):
    stream = interop.as_stream(gpu.stream())
    for _ in range(4):
        gpu.launch(stream, lambda: None)
        stream.query()


@pytest.mark.usefixtures("seconds")
def test_the_line_says_which_part_it_is_and_is_erased_at_the_end(monkeypatch):
    terminal = Terminal(monkeypatch)
    assert [*progress.progress("abc", "measuring")] == ["a", "b", "c"]
    *shown, last, nothing = terminal.getvalue().split(ERASED)
    assert [*shown, last] == ["", *(f"measuring: {number} of 3" for number in (1, 2, 3))]
    assert nothing == ""


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_where_there_is_no_terminal_nothing_is_written(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    assert [*progress.progress("abc", "measuring")] == ["a", "b", "c"]
    assert interop.sim.explore(schedules)
    assert not stream or not stream.getvalue()


def test_what_is_done_at_once_writes_nothing(monkeypatch):
    terminal = Terminal(monkeypatch)
    with progress.Line(after=60) as line:
        assert not line.is_due()
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("seconds")
def test_an_exploration_says_how_many_schedules_ran_and_what_they_cover(monkeypatch):
    terminal = Terminal(monkeypatch)
    found = interop.sim.explore(schedules, limit=6, samples=3)
    *shown, nothing = terminal.getvalue().split(ERASED)
    assert "exploring: 4 schedules, which cover " in "".join(shown)
    assert shown[-1] == "exploring at random: 2 of 3"
    assert nothing == ""
    assert not found.complete
