"""The suite that third parties inherit: on our own libraries, as far as that needs no driver, and on wrong adapters."""

# ruff: noqa: ARG002  (the signatures are the contract's)

import re
import sys
import types

import pytest

import interop
from interop.adapters.base import Adapter
from interop.testing.conformance import AdapterConformance, _gpu_is_there


class Simulated(AdapterConformance):
    only_addresses = True

    def new_event(self):
        pytest.skip(f"{self.library} makes its events and arrays on a GPU")

    new_array = new_event


@pytest.mark.skipif(_gpu_is_there(), reason="tests/gpu has the whole of it")
class TestCupy(Simulated):
    library = "cupy"


@pytest.mark.skipif(_gpu_is_there(), reason="tests/gpu has the whole of it")
class TestRmm(Simulated):
    library = "rmm"


# -- a library that has everything, and ways to get it wrong -----------------------------------------------------------


class Stream:
    def __init__(self, handle, keeps=None):
        self.handle, self.keeps = handle, keeps


class Event:
    def __init__(self):
        self.handle = 0


class Array:
    def __init__(self, memory=None):
        self.memory = memory

    @property
    def __cuda_array_interface__(self):
        return {"version": 3, "shape": (4,), "typestr": "|u1", "data": (4096, False), "stream": None}


class Everything(Adapter):
    library = "whole"
    has_current_stream = True
    makes_arrays = True

    def __init__(self):
        self.stream = Stream(0)

    def stream_handle(self, stream):
        return stream.handle or 1 if isinstance(stream, Stream) else None

    def make_stream(self, source):
        return Stream(source.handle, source)

    def event_handle(self, event):
        return event.handle if isinstance(event, Event) else None

    def record(self, event, stream):
        cuda = interop._cudart.active()
        event.handle = cuda.event_create(cuda.current_context(), 2)
        cuda.event_record(event.handle, stream.handle)

    def is_array(self, array):
        return isinstance(array, Array)

    def array_stream(self, array):
        return self.stream

    def make_array(self, tensor, holder):
        return Array(holder)

    def current_stream(self):
        return self.stream

    def enter(self, stream, before):
        self.stream = stream

    def leave(self, before):
        self.stream = before


class Wrong:
    """The same, each with one fault; a test that has to see it."""

    class TakesAnything(Everything):
        def stream_handle(self, stream):
            return getattr(stream, "handle", 1) or 1

    class GivesNull(Everything):
        def stream_handle(self, stream):
            return stream.handle if isinstance(stream, Stream) and stream.handle > 2 else None

    class ForgetsTheOwner(Everything):
        def make_stream(self, source):
            return Stream(source.handle)

    class DeniesThatItKeeps(Everything):
        def keeps_alive(self, stream):
            return False

    class MakesAnother(Everything):
        def make_stream(self, source):
            return Stream(interop.new_stream().cuda_stream, source)

    class RecordsNothing(Everything):
        def record(self, event, stream):
            cuda = interop._cudart.active()
            event.handle = cuda.event_create(cuda.current_context(), 2)

        def event_handle(self, event):
            return 0 if isinstance(event, Event) else None

    class EventsAreStreams(Everything):
        def stream_handle(self, stream):
            return stream.handle or 1 if isinstance(stream, Stream | Event) else None

    class LeavesItCurrent(Everything):
        def leave(self, before):
            pass

    class DoesNotEnter(Everything):
        def enter(self, stream, before):
            pass

    class PutsBackByCounting(Everything):
        def __init__(self):
            super().__init__()
            self.stack = []

        def enter(self, stream, before):
            self.stack.append(self.stream)
            self.stream = stream

        def leave(self, before):
            self.stream = self.stack.pop()

    class ArraysOnAnyStream(Everything):
        def array_stream(self, array):
            return Stream(1)

    class MakesNoArray(Everything):
        def make_array(self, tensor, holder):
            return holder

    class TakesAnyArray(Everything):
        def is_array(self, array):
            return True


FAULTS = {
    "TakesAnything": "test_what_is_no_stream_is_not_taken_for_one",
    "GivesNull": "test_the_default_streams_keep_their_meaning",
    "ForgetsTheOwner": "test_what_goes_out_keeps_the_owner_alive",
    "DeniesThatItKeeps": "test_what_goes_out_keeps_the_owner_alive",
    "MakesAnother": "test_a_stream_goes_out_and_comes_back",
    "RecordsNothing": "test_its_events_order",
    "EventsAreStreams": "test_an_event_that_has_no_handle_yet",
    "LeavesItCurrent": "test_use_makes_a_stream_current",
    "DoesNotEnter": "test_use_makes_a_stream_current",
    "PutsBackByCounting": "test_what_was_can_be_put_back_twice_and_without_need",
    "ArraysOnAnyStream": "test_the_current_stream_has_written_its_arrays",
    "MakesNoArray": "test_an_array_is_handed_over_in_order",
    "TakesAnyArray": "test_what_is_no_array_is_not_taken_for_one",
}


class Whole(AdapterConformance):
    """The suite on a stand-in, which is simulated where a real one has a GPU."""

    library = "whole"
    only_addresses = True
    kind = Everything

    @pytest.fixture
    def adapter(self, registry, monkeypatch):
        monkeypatch.setitem(sys.modules, "whole", types.ModuleType("whole"))
        for cls in (Stream, Event, Array):
            monkeypatch.setattr(cls, "__module__", "whole")
        adapter = self.kind()
        adapter.simulated = True
        interop.register("whole", adapter)
        with interop.sim.simulate() as gpu:
            monkeypatch.setattr(gpu.cuda, "pointer_place", lambda _: (2, 0))
            yield adapter
            interop.release()

    def new_event(self):
        return Event()

    def new_array(self):
        return Array()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestWhole(Whole):
    pass


class OnlyStreams(Adapter):
    """A library that has nothing else."""

    library = "whole"
    instead = "pass it"
    stream_handle = Everything.stream_handle
    make_stream = Everything.make_stream


class TestOnlyStreams(Whole):
    kind = OnlyStreams


class NamesNoWriter(OnlyStreams):
    """And one whose arrays do not say who wrote them."""

    is_array = Everything.is_array


class TestNamesNoWriter(Whole):
    kind = NamesNoWriter


@pytest.fixture(scope="module")
def failed(tmp_path_factory, run_tests):
    """The tests that fail on the wrong adapters, as ``(fault, test)``."""
    classes = [f"class Test{fault}(Whole):\n    kind = Wrong.{fault}\n" for fault in FAULTS]
    said = run_tests(
        tmp_path_factory.mktemp("wrong"),
        "\n\n".join(["from tests.test_conformance import Whole, Wrong", *classes]),
        *["-p", "tests.conftest", "--import-mode=importlib", "-rf"],
    )
    assert said.returncode == 1, said.stdout
    return re.findall(r"FAILED \S+::Test(\w+)::(\w+)", said.stdout)


@pytest.mark.parametrize(("fault", "test"), FAULTS.items())
def test_a_wrong_adapter_is_found_out(fault, test, failed):
    assert (fault, test) in failed
