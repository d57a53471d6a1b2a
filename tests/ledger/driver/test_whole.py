"""A ledger on a libcupti that is made for the tests: from the callback in C to the report."""

import ctypes
import functools
import struct

import pytest

import interop
from interop.ledger.driver import watch
from interop.ledger.driver.recorder import Recorder
from interop.ordering import check
from tests.ledger.driver import test_recorder
from tests.ledger.driver.programs import Kernels

pytestmark = test_recorder.pytestmark
built, fake = test_recorder.built, test_recorder.fake
fire, launch, words = test_recorder.fire, test_recorder.launch, test_recorder.words
PRODUCER, CONSUMER, EVENT, ARRAY = 0x200, 0x300, 77, 0x5000


@pytest.fixture
def program(fake, built, monkeypatch):
    monkeypatch.setattr(watch, "Recorder", functools.partial(Recorder, built, driver=built))
    monkeypatch.setattr(watch, "_kernels", Kernels)
    made = ctypes.c_uint64(ARRAY)

    def run(*, right):
        fire(fake, "cuMemAlloc_v2", words(ctypes.addressof(made), 64))
        launch(fake, 16, PRODUCER, words(ARRAY), struct.pack("=I", 5), words(1, 2, 3), symbol="w----_fill")
        if right:
            fire(fake, "cuEventRecord", words(EVENT, PRODUCER))
            fire(fake, "cuStreamWaitEvent", words(CONSUMER, EVENT, 0))
        launch(fake, 32, CONSUMER, words(ARRAY), symbol="r_sum")

    return run


def test_a_missing_wait_is_found_with_the_lines_of_the_program(program):
    with pytest.raises(interop.RaceError) as caught, check(eye="driver") as ledger:
        program(right=False)
    assert "kernel 'w----_fill' on stream 0x200" in str(caught.value)
    [found] = ledger.races
    assert found.later.stream == "stream 0x300"
    assert found.later.where.startswith(f"{test_recorder.__file__}:")  # where the tests call the driver


def test_its_twin_is_right(program):
    with check(eye="driver") as ledger:
        program(right=True)
    assert (ledger.unknown, ledger.accesses, ledger.blind) == ([], 2, [])


def test_one_block_comes_after_another(program):
    for right in (True, False, True):
        with check(eye="driver", raises=False) as ledger:
            program(right=right)
        assert len(ledger.races) == (not right)
