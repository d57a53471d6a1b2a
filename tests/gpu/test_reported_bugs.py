"""The ten programs of reported_bugs.py: each gives wrong values behind a gate, and its twin right ones."""

import pytest

NAMES = [
    "upload_not_awaited",
    "initialised_on_the_default_stream",
    "tensor_freed_while_it_is_copied",
    "array_freed_while_another_stream_reads",
    "legacy_copy_and_non_blocking_stream",
    "numba_upload_not_awaited",
    "core_copy_not_awaited",
    "thread_joined_but_not_its_stream",
    "input_overwritten_for_the_next_step",
    "event_of_the_other_buffer",
]

each_bug = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("fixed", [False, True], ids=["bug", "twin"])


@pytest.fixture
def run(interop_need):
    for library in ("cupy", "numba", "torch", "cuda.core"):
        interop_need(library)
    from tests.gpu import bugs, reported_bugs

    assert [bug.__name__ for bug in reported_bugs.BUGS] == NAMES

    def run(name, **options):
        """Run a bug or its twin; returns whether all values that its reader has written are right."""
        lab = bugs.Lab(**options)
        array = getattr(reported_bugs, name)(lab)
        lab.ready()
        return set(array.tolist()) == {bugs.RIGHT}

    return run


@each_bug
@both
def test_a_reported_bug_gives_wrong_values_and_its_twin_right_ones(run, name, fixed):
    run(name, fixed=fixed)  # compiles, loads and allocates everything
    assert run(name, fixed=fixed, gated=True) == fixed
