"""The first wrong call is answered: by an error that names what was given, and what to write. No test needs a GPU."""

import ctypes
import re
from types import SimpleNamespace

import pytest

import interop
from interop import Event, ExternalStream, _cuda, as_event, as_stream, errors, handoff, hold, sim
from interop._cuda.addresses import check_device

says = re.escape


@pytest.fixture
def gpu():
    with sim.simulate() as gpu:
        yield gpu


# -- names of other libraries --------------------------------------------------------------------------------------

OF_STREAMS = {
    "handle": "the address is `cuda_stream`, an int",
    "sync": "`synchronize()` blocks the host until the work is done",
    "done": "`query()` says whether the work is done",
    "is_done": "`query()` says whether the work is done",
    "wait": "`wait_stream(stream)` waits for a stream, and `wait_event(event)` for an event",
    "record": "`record_event(event)` records in an event, and `record_event()` in a new one",
    "close": "its owner closes a borrowed stream; one of `new_stream` is destroyed when nothing refers to it",
}
OF_EVENTS = {name: OF_STREAMS[name] for name in ("sync", "done", "is_done")} | {
    "handle": "the address is `cuda_event`, an int",
    "close": "an event is destroyed when nothing refers to it",
}
CASES = [("ExternalStream", *case) for case in OF_STREAMS.items()] + [("Event", *case) for case in OF_EVENTS.items()]


@pytest.mark.parametrize(("cls", "name", "hint"), CASES)
def test_a_habit_from_another_library_is_an_error_with_a_hint(cls, name, hint, address):
    obj = as_stream(address) if cls == "ExternalStream" else Event()
    for asked in (obj, type(obj)):
        with pytest.raises(AttributeError, match=says(f"interop.{cls} has no attribute {name!r}: {hint}")) as raised:
            getattr(asked, name)
        assert raised.value.name == name
        assert not hasattr(asked, name)
    assert name not in dir(obj)


def test_what_an_event_has_is_in_its_dir():
    assert {"wait", "record", "query", "owner"} <= {*dir(Event())}


def test_any_other_name_is_pythons_own_error(address):
    with pytest.raises(AttributeError, match=r"'ExternalStream' object has no attribute 'nothing'"):
        _ = as_stream(address).nothing


# -- the wrong function --------------------------------------------------------------------------------------------


class Foreign:
    """A stream of a library."""

    def __init__(self, address):
        self.address = address

    def __cuda_stream__(self):
        return (0, self.address)


@pytest.mark.parametrize("wrong", [Foreign(0), Event()], ids=["stream", "event"])
def test_external_stream_points_to_as_stream(wrong):
    with pytest.raises(errors.InvalidStreamError, match=r"got <.*>\. interop\.as_stream borrows streams"):
        ExternalStream(wrong)


def test_of_a_plain_value_it_says_what_a_handle_is():
    with pytest.raises(errors.InvalidStreamError, match=r"got 1\.5 of type float$"):
        ExternalStream(1.5)


class Stream(Foreign):
    """Named as all libraries name theirs."""


@pytest.mark.parametrize("kind", [as_stream, Stream], ids=["ours", "another library's"])
def test_wait_event_of_a_stream_says_wait_stream(kind, address):
    with pytest.raises(errors.InvalidEventError, match=r"got <.*>\. wait_stream waits for a stream, and the record"):
        as_stream(address).wait_event(kind(address + 64))


@pytest.mark.parametrize("call", [as_event, lambda stream: stream.record_event(stream)], ids=["borrow", "record"])
def test_a_stream_in_place_of_an_event_is_told_how_to_record_one(call, address):
    with pytest.raises(errors.InvalidEventError, match=says("the record_event() of a stream records an event")):
        call(as_stream(address))


def test_wait_stream_of_an_event_says_wait_event(address):
    with pytest.raises(errors.InvalidStreamError, match=r"got <interop.Event .*>\. wait_event waits for an event$"):
        as_stream(address).wait_stream(Event())


@pytest.mark.parametrize("name", ["CuPy", "CUPY", "cuda_core"])
def test_a_name_of_a_library_in_another_spelling_is_understood(name, gpu):
    meant = "cuda.core" if name == "cuda_core" else "cupy"
    with pytest.raises(errors.LibraryNotFoundError, match=f"no library '{name}'; did you mean '{meant}'"):
        as_stream(gpu.stream("s")).to(name)


@pytest.mark.parametrize("flags", [("timing",), (False, 1), (False, False, None)], ids=str)
def test_the_flags_of_an_event_are_bools(flags):
    with pytest.raises(errors.InvalidEventError, match=says(f"got {flags[-1]!r} of type {type(flags[-1]).__name__}")):
        Event(*flags)


def test_a_foreign_event_is_borrowed_by_as_event():
    with pytest.raises(errors.InvalidEventError, match=r"interop\.as_event borrows"):
        Event(SimpleNamespace(cuda_event=0))


# -- swapped arguments, and none ------------------------------------------------------------------------------------


def watched(call):
    def swapped(stream, array):
        with interop.ordering.check() as ledger:
            getattr(ledger, call)(stream, array)

    return swapped


SWAPPED = {
    "handoff(array, consumer)": handoff,
    "borrow(array, consumer=stream)": lambda stream, array: interop.borrow(stream, consumer=array).__enter__(),
    "hold(stream, *objects)": lambda stream, array: hold(array, stream),
    "reads(array, stream)": watched("reads"),
    "writes(array, stream)": watched("writes"),
}


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("call", SWAPPED)
def test_swapped_arguments_are_told(call, ours, gpu):
    stream, array = gpu.stream("s"), gpu.array([0], "x")
    stream = as_stream(stream) if ours else stream
    with pytest.raises(errors.InvalidStreamError, match=says(f"the arguments are swapped: write {call}; ")) as raised:
        SWAPPED[call](stream, array)
    assert "is a stream, and got" in str(raised.value)


def test_a_span_whose_arguments_are_swapped(gpu):
    stream = as_stream(gpu.stream("s"))
    with interop.Timeline() as timeline:
        for arguments in ((stream, "copy"), (stream,)):
            with pytest.raises(errors.InvalidStreamError, match=says("swapped: write span(name, stream); <SIMULATED")):
                timeline.span(*arguments)
        with timeline.span(3, stream):  # any other name is taken
            pass
    assert [span.name for span in timeline.spans] == ["3"]


def test_two_wrong_arguments_are_not_swapped(gpu):
    with pytest.raises(errors.InvalidStreamError, match="expected a stream"):
        handoff(gpu.array([0], "x"), gpu.array([0], "y"))
    with pytest.raises(errors.InvalidStreamError, match="expected a stream"):
        handoff(1, gpu.array([0], "y"))


def test_nothing_to_hold_and_nothing_to_borrow_is_refused(gpu):
    stream = as_stream(gpu.stream("s"))
    with pytest.raises(errors.InvalidArrayError, match=says(f"nothing to keep alive; got {stream!r} only")):
        hold(stream)
    with pytest.raises(errors.InvalidArrayError, match=says(f"no array; got consumer={stream!r} only")):
        interop.borrow(consumer=stream)


# -- devices and addresses -----------------------------------------------------------------------------------------


class Ordinal(SimpleNamespace):
    """A device of a library."""


@pytest.mark.parametrize("device", [1, "cuda:1", Ordinal(index=1), Ordinal(index=1, type="cuda")], ids=repr)
def test_what_states_an_ordinal_is_a_device(device):
    assert check_device(device, _cuda.active()) == 1
    assert Event(device=device).device == 1


@pytest.mark.parametrize("device", ["cuda", Ordinal(index=None, type="cuda")], ids=repr)
def test_a_device_without_an_ordinal_is_the_current_one(device):
    with sim.simulate(devices=2) as gpu:
        gpu.runtime.cudaSetDevice(1)
        assert check_device(device, _cuda.active()) == 1
        stream = interop.new_stream(device)
        assert stream.device == Event(device=device).device == 1
        gpu.runtime.cudaSetDevice(0)
        with pytest.raises(errors.DeviceMismatchError, match="device=0 was given"):
            as_stream(stream, device)


def test_a_device_of_pytorch(gpu):
    torch = pytest.importorskip("torch")
    assert check_device(torch.device("cuda:3"), _cuda.active()) == 3
    assert check_device(torch.device("cuda"), _cuda.active()) == 0
    for device in (torch.device("cpu"), torch.device("cpu:0")):
        with pytest.raises(errors.InvalidDeviceError, match="or 'cuda:1', or an object with an int `index`"):
            check_device(device, _cuda.active())


class Raises:
    @property
    def index(self):
        raise RuntimeError

    def __repr__(self):
        return "raises"


@pytest.mark.parametrize(
    "device",
    [
        "cuda:",
        "cuda:-1",
        "cpu:0",
        "CUDA:0",
        "1",
        "cuda:1.5",
        f"cuda:{5000 * '9'}",
        [],
        Ordinal(index=True),
        Ordinal(index=None),
        Ordinal(index=None, type="cpu"),
        Raises(),
    ],
    ids=lambda device: repr(device)[:20],
)
def test_what_states_none_is_refused(device):
    with pytest.raises(errors.InvalidDeviceError, match="a device is its ordinal"):
        check_device(device, _cuda.active())


def test_a_stream_is_checked_against_the_device_that_is_stated(gpu):
    stream = as_stream(gpu.stream("s"))
    for device in (0, "cuda:0", Ordinal(index=0)):
        assert as_stream(stream, device) is stream
        assert as_stream(stream.cuda_stream, device) == stream
        assert interop.new_stream(device).device == 0
    with pytest.raises(errors.DeviceMismatchError):
        as_stream(stream, "cuda:1")


class VoidPointer(ctypes.c_void_p):
    """Subclasses count too."""


@pytest.mark.parametrize("pointer", [ctypes.c_void_p, VoidPointer])
def test_a_void_pointer_is_an_address(pointer, address):
    for make in (as_stream, ExternalStream):
        stream = make(pointer(address))
        assert stream.cuda_stream == address
        assert stream.owner is None  # as of an int: it keeps no stream alive
        assert make(pointer(None)) == make(0)
    assert as_event(pointer(address)).cuda_event == address
    with pytest.raises(errors.InvalidStreamError, match="no stream is at 0x8"):
        as_stream(pointer(8))
    with pytest.raises(errors.InvalidEventError):
        as_event(pointer(None))


# -- messages ------------------------------------------------------------------------------------------------------


def test_messages_show_our_own_objects_as_they_show_themselves(gpu):
    for ours in (gpu.array([0], "x"), gpu.stream("s")):
        with pytest.raises(errors.InteropError, match=says(repr(ours))):
            as_event(ours)
    with pytest.raises(errors.InvalidArrayError, match=says("interop.Event 0x0 not recorded>")):
        handoff(Event(), gpu.stream("s"))
