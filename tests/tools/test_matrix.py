"""What the matrix says where it cannot be measured. What it measures is tested on a GPU."""

import io
import sys

import pytest

from interop import sim
from interop._show.progress import progress
from interop.matrix import libraries, measure, report
from interop.matrix.libraries import Library


class Gives(Library):
    """Has arrays, and takes none."""

    name, title = "gives", "Gives"


class Missing(Library):
    """Not installed."""

    name, title = "missing", "Missing"

    def __init__(self):
        raise ModuleNotFoundError("No module named 'missing'", name="missing")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    known = {kind.name: kind for kind in (Gives, Missing)}
    monkeypatch.setattr("interop.matrix.LIBRARIES", known)
    with sim.simulate() as gpu:
        yield gpu


@pytest.mark.parametrize(
    ("only", "said"),
    [
        (["missing"], "missing cannot be taken: missing is not installed"),
        (["gives"], "there is no pair of a library that gives arrays and another one that takes them: gives"),
        (None, "there is no pair of a library that gives arrays and another one that takes them: gives"),
        ([" gives", "[/nonsense]"], "no such library here: [/nonsense]; there are gives, missing"),
    ],
)
def test_the_matrix_says_what_it_cannot_measure(only, said, capsys):
    assert report.main(as_json=False, only=only) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", said + "\n")


def test_a_library_that_is_not_installed_is_an_import_error():
    with pytest.raises(ImportError, match="not installed"):
        measure(["missing"])
    assert set(libraries.LIBRARIES) > {"cupy", "torch"}


class Terminal(io.StringIO):
    def __init__(self, is_one):
        super().__init__()
        self.is_one = is_one

    def isatty(self):
        return self.is_one


@pytest.mark.parametrize("is_one", [True, False])
def test_progress_is_shown_on_a_terminal_and_nowhere_else(is_one, monkeypatch, capsys):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(is_one)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(["a", "b", "c"], "handing over")) == ["a", "b", "c"]
    assert ("handing over" in terminal.getvalue()) is is_one
    assert (" 67%" in terminal.getvalue()) is is_one
    assert capsys.readouterr().out == ""


def test_the_matrix_takes_its_ways_from_the_progress(monkeypatch):
    monkeypatch.setattr("interop.new_stream", lambda: None)
    monkeypatch.setattr("interop.matrix._taken", lambda _: [Pretended("a"), Pretended("b")])
    monkeypatch.setattr("interop.matrix._outcome", lambda case: f"{case.producer.name} {case.when}")

    def second_of(ways):
        assert len(ways) == 6
        return ways[1:2]

    assert measure(progress=second_of) == [
        {
            "producer": "a",
            "consumer": "b",
            "route": "interop.handoff",
            "inside": "a inside",
            "after": "a after",
            "back": "a back",
        }
    ]


class Pretended:
    routes = ("way",)

    def __init__(self, name):
        self.name = name
