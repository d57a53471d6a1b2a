"""The twelve bugs of bugs.py: each gives wrong values behind a gate, and the ledger finds it. Its twin does neither."""

from pathlib import Path

import pytest

import interop
from tests.gpu.record import measured

NAMES = [
    "wrong_current_stream",
    "side_stream_not_joined",
    "array_interface_read_by_torch",
    "event_recorded_before_the_work",
    "event_never_recorded",
    "buffer_used_again",
    "freed_before_the_consumer_is_done",
    "default_stream_against_a_non_blocking_one",
    "numba_launch_on_stream_0",
    "one_per_thread_handle_in_two_threads",
    "event_on_the_wrong_device",
    "missing_reverse_edge",
]

each_bug = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("fixed", [False, True], ids=["bug", "twin"])


@pytest.fixture
def bugs(request, interop_need):
    interop_need("cupy")
    interop_need("numba")
    interop_need("torch")
    if "event_on_the_wrong_device" in request.node.name or "table" in request.node.name:
        interop_need("gpu2")
    from tests.gpu import bugs

    assert [bug.__name__ for bug in bugs.BUGS] == NAMES
    return bugs


def run(bugs, name, **options):
    """Run a bug or its twin; returns the values that its reader has written."""
    lab = bugs.Lab(**options)
    array = getattr(bugs, name)(lab)
    lab.ready()
    return set(array.tolist())


def watched(bugs, name, *, fixed):
    with interop.ordering.check(raises=False, eye="libraries") as ledger:
        run(bugs, name, fixed=fixed, ledger=ledger)
    return ledger


@each_bug
@both
def test_a_bug_gives_wrong_values_and_its_twin_right_ones(bugs, name, fixed):
    run(bugs, name, fixed=fixed)  # compiles, loads and allocates everything
    seen = run(bugs, name, fixed=fixed, gated=True)
    assert (seen == {bugs.RIGHT}) == fixed, seen


@each_bug
@both
def test_the_ledger_finds_each_bug_and_not_its_twin(bugs, name, fixed):
    run(bugs, name, fixed=fixed)
    ledger = watched(bugs, name, fixed=fixed)
    assert bool(ledger.races) == (not fixed), str(ledger)
    assert ledger.accesses
    for race in ledger.races:
        for party in (race.earlier, race.later):
            assert Path(party.where.rpartition(":")[0]).name == "bugs.py", str(ledger)


@pytest.mark.parametrize(
    "name", ["event_never_recorded", "one_per_thread_handle_in_two_threads", "event_on_the_wrong_device"]
)
def test_interop_refuses_some_of_the_bugs(bugs, name):
    refused, error = bugs.REFUSED[name]
    with pytest.raises(getattr(interop.errors, error)):
        refused()


def test_the_table_of_bugs_is_recorded(bugs):
    """Records which bug the ledger finds, and which one interop refuses."""
    rows = []
    for name in NAMES:
        bug, twin = (watched(bugs, name, fixed=fixed) for fixed in (False, True))
        rows.append(
            {
                "bug": name,
                "ledger": "race" if bug.races else "unknown" if bug.unknown else "-",
                "ledger, on the twin": "race" if twin.races else "unknown" if twin.unknown else "-",
                "through interop": bugs.REFUSED[name][1] if name in bugs.REFUSED else "-",
                "fix": bug.races[0].fix if bug.races else "",
            }
        )
    measured("bugs", rows=rows)
    assert [row["ledger"] for row in rows] == ["race"] * len(NAMES), rows
    assert "race" not in [row["ledger, on the twin"] for row in rows], rows
