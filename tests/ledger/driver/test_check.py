"""interop.ordering.check with the driver's eye: which eye is opened, when it judges, and that it is shut again."""

import threading
import types

import pytest

import interop
from interop import sim
from interop.ledger.driver import watch
from interop.ledger.driver.cupti import EyeShut
from interop.ledger.layout import block
from interop.ordering import check
from tests.ledger.driver.programs import Kernels, Program

SHUT = EyeShut("there is no libcupti.so", "install it")


class Recorder:
    """In place of the recorder: gives the calls of hand-made programs."""

    one = None
    error = None

    def __init__(self):
        type(self).one = self
        self.is_open = False
        self.lost = 0
        self.has_lines = True
        self.given = []
        self.notes = []

    def open(self):
        if self.error:
            raise self.error
        self.is_open = True

    def close(self):
        self.is_open = False

    def calls(self):
        given, self.given = self.given, []
        yield from given

    def note(self, *what):
        self.notes.append(what)

    def module(self, number):
        return b"code %d" % number


class Pools:
    def __init__(self, recorder):
        self.recorder = recorder
        self.is_open = False

    def open(self):
        self.is_open = self.recorder.is_open

    def close(self):
        assert self.recorder.is_open or not self.is_open  # its notes need the recorder
        self.is_open = False

    def merged(self, calls):
        return iter(calls)


class Seen(Kernels):
    def __init__(self):
        self.modules = []

    def add_module(self, image):
        self.modules.append(image)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(watch, "Recorder", Recorder)
    monkeypatch.setattr(watch, "Pools", Pools)
    monkeypatch.setattr(watch, "why_late", lambda: "")
    kernels = Seen()
    monkeypatch.setattr(watch, "_kernels", lambda: kernels)
    monkeypatch.setattr(Recorder, "error", None)
    monkeypatch.setattr(Recorder, "one", None)
    return Recorder


def race(*, right=False):
    p = Program()
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "w_fill", x)
    if right:
        p.order(s, t)
    p.kernel(t, "r_sum", x)
    return p.calls


def test_a_race_is_raised_at_the_end_of_the_block(recorder):
    with pytest.raises(interop.RaceError, match="nothing orders"), check(eye="driver") as ledger:
        recorder.one.given = race()
    assert not recorder.one.is_open
    assert ledger.eye == "driver"
    assert len(ledger.races) == 1
    assert str(ledger).startswith("1 race and 0 unknown in 2 accesses")


def test_what_is_ordered_raises_nothing(recorder):
    with check(eye="driver") as ledger:
        recorder.one.given = race(right=True)
    assert (ledger.races, ledger.unknown, ledger.accesses, ledger.blind) == ([], [], 2, [])


def test_lines_that_cannot_be_read_are_told(recorder):
    with check(eye="driver") as ledger:
        recorder.one.has_lines = False
    assert ledger.blind == ["the lines of code: this version of Python keeps them elsewhere"]


def test_calls_are_judged_when_somebody_asks(recorder):
    calls = race()
    with check(eye="driver", raises=False) as ledger:
        recorder.one.given = calls[:-1]
        assert not ledger.races
        recorder.one.given = calls[-1:]
        assert len(ledger.races) == 1
        assert len(ledger.races) == 1


def test_a_watch_that_is_held_open_has_a_ledger_for_each_block(recorder, monkeypatch):
    whole = watch.Watch()
    whole.open()
    monkeypatch.setattr(watch, "shared", [whole])
    one = recorder.one
    program = Program()
    s, t, x = program.stream("s"), program.stream("t"), program.array()
    program.kernel(s, "w_fill", x)
    one.given = list(program.calls)
    with check() as ledger:  # what came before is compared with nothing
        before = len(program.calls)
        program.kernel(t, "r_sum", x)
        one.given = program.calls[before:]
    assert (ledger.eye, ledger.accesses, ledger.races) == ("driver", 1, [])
    with check(raises=False) as second:
        before = len(program.calls)
        program.kernel(s, "w_fill", x)
        program.kernel(t, "r_sum", x)
        one.given = program.calls[before:]
    assert len(second.races) == 1
    assert ledger.races == []
    assert one.is_open
    whole.close()


def test_by_default_the_driver_is_watched_where_it_can_be(recorder):
    with check() as ledger:
        assert recorder.one.is_open
    assert ledger.eye == "driver"


def test_an_eye_that_stays_shut_leaves_the_libraries(recorder, monkeypatch):
    monkeypatch.setattr(recorder, "error", SHUT)
    with check() as ledger:
        pass
    assert ledger.eye == "libraries: the driver's eye stays shut: there is no libcupti.so; install it"
    with pytest.raises(EyeShut, match="install it"), check(eye="driver"):
        pass


def test_an_eye_that_would_open_late_leaves_the_libraries(recorder, monkeypatch):
    monkeypatch.setattr(watch, "why_late", lambda: "CUDA was in use")
    with check() as ledger:
        assert recorder.one is None
    assert ledger.eye == "libraries: CUDA was in use"
    with check(eye="driver") as ledger:
        assert recorder.one.is_open


def test_the_libraries_are_watched_on_demand(recorder):
    with check(eye="libraries") as ledger:
        assert recorder.one is None
    assert ledger.eye == "libraries"


def test_a_simulation_and_a_strict_ledger_need_the_libraries(recorder):
    with sim.simulate(), check() as ledger:
        assert ledger.eye == "libraries: the driver has no part in a simulation"
    with check(strict=True) as ledger:
        assert ledger.eye == "libraries: strict=True raises where an access is made"
    assert recorder.one is None


def test_what_no_eye_can_do_is_refused():
    with pytest.raises(ValueError, match=r'^eye is "driver", "libraries" or None; got \'cupti\'$'):
        check(eye="cupti")
    with pytest.raises(ValueError, match="judges afterwards"):
        check(eye="driver", strict=True)


def test_an_exception_shuts_the_eye(recorder):
    with pytest.raises(ZeroDivisionError), check(eye="driver"):
        1 // len(recorder.one.given)
    assert not recorder.one.is_open


def test_pools_that_cannot_be_observed_shut_the_eye(recorder, monkeypatch):
    def failing(_self):
        raise ZeroDivisionError

    monkeypatch.setattr(Pools, "open", failing)
    with pytest.raises(ZeroDivisionError), check(eye="driver"):
        pass
    assert not recorder.one.is_open


def test_what_the_program_declares_is_noted_in_the_order_of_calls(recorder, monkeypatch):
    stream = types.SimpleNamespace(cuda_stream=0x5000, is_capturing=lambda: False)
    monkeypatch.setattr("interop.ledger.ledger.stream_beside", lambda *_: stream)
    monkeypatch.setattr("interop.ledger.ledger.layout_of", lambda _: block(0x7F0000000000, 16))
    with check(eye="driver") as ledger:
        ledger.reads("x", "s")
        stream.is_capturing = lambda: True
        ledger.writes("x", "s")
    assert recorder.one.notes == [("array", 0x5000, 0x7F0000000000, 0, 16, 1)]


def test_what_a_thread_was_told_is_noted(recorder):
    with check(eye="driver") as ledger:
        ledger.hear(threading.current_thread())
    assert recorder.one.notes == [("array", 0, threading.get_native_id())]


def test_code_that_is_loaded_is_known_from_then_on(recorder):
    p = Program()
    p.call("module", a=7)
    with check(eye="driver"):
        recorder.one.given = p.calls
    assert watch._kernels().modules == [b"code 7"]


def test_judging_that_is_interrupted_leaves_nothing_certain(recorder, monkeypatch):
    def interrupted(calls):
        yield from list(calls)[:-1]
        raise KeyboardInterrupt

    with check(eye="driver", raises=False) as ledger:
        recorder.one.given = race()
        with monkeypatch.context() as patch:
            patch.setattr(ledger._watch._pools, "merged", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _ = ledger.races
        recorder.one.given = race()
    assert not ledger.races
    assert {one.uncertainty for one in ledger.unknown} == {
        "the judging of calls was interrupted, and some were left out"
    }


def test_lost_records_leave_nothing_certain(recorder):
    with check(eye="driver") as ledger:
        recorder.one.given = race()
        recorder.one.lost = 2
    assert not ledger.races
    assert [one.uncertainty for one in ledger.unknown] == ["2 records of calls found no room and were lost"]
    assert ledger.blind == ["2 records of calls found no room and were lost: nothing is certain"]


@pytest.mark.parametrize(
    ("codes", "active", "late"),
    [([3], 0, False), ([0, 0, 101], 0, False), ([0, 0, 101], 1, True)],
    ids=["not initialised", "in no use", "in use"],
)
def test_the_eye_is_late_where_a_device_is_in_use(monkeypatch, codes, active, late):
    class Driver:
        def __init__(self, name):
            assert name == "libcuda.so.1"

        def cuDevicePrimaryCtxGetState(self, device, _flags, found):  # noqa: N802
            found._obj.value = active * device
            return codes[device]

    monkeypatch.setattr(watch.ctypes, "CDLL", Driver)
    assert ("CUDA was in use before the block" in watch.why_late()) == late


def test_the_eye_is_late_in_a_block_that_has_opened_it(monkeypatch):
    monkeypatch.setattr(watch, "opened", [object()])
    assert watch.why_late() == "the driver's eye is open already, in a block around this one"


def test_the_block_of_memory_that_is_older_than_the_eye_is_asked_for(monkeypatch):
    class Driver:
        def __init__(self, name):
            pass

        def cuMemGetAddressRange_v2(self, start, size, address):  # noqa: N802
            if address.value >= 0x7F0000100000:
                return 1
            start._obj.value, size._obj.value = 0x7F0000000000, 0x100000
            return 0

    monkeypatch.setattr(watch.ctypes, "CDLL", Driver)
    ask = watch._asker()
    assert ask(0x7F0000000010) == (0x7F0000000000, 0x7F0000100000)
    assert ask(0x7F0000100000) is None
