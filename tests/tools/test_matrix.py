"""What the matrix says where it cannot be measured. What it measures is tested on a GPU."""

import pytest

from interop import sim
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
