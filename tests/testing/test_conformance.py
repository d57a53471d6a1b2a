"""The conformance suite: right adapters pass it, and it finds the fault of each wrong one."""

# ruff: noqa: ARG002  (the signatures are the contract's)

import http
import re
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import interop
from interop import _cuda
from interop.adapters import adapter_named
from interop.adapters.base import Adapter
from interop.adapters.tensor import CUDA, TYPES, Tensor
from interop.testing.conformance import AdapterConformance
from interop.testing.conformance.library import gpu_is_there
from tests.default_streams import DEFAULT_STREAMS


class Simulated(AdapterConformance):
    only_addresses = True

    def default_streams(self):
        return DEFAULT_STREAMS[self.library]()

    def new_event(self):
        pytest.skip(f"{self.library} makes its events and arrays on a GPU")

    new_array = new_event


@pytest.mark.skipif(gpu_is_there(), reason="tests/gpu runs the whole suite")
class TestCupy(Simulated):
    library = "cupy"


@pytest.mark.skipif(gpu_is_there(), reason="tests/gpu runs the whole suite")
class TestCudaBindings(Simulated):
    library = "cuda.bindings"


@pytest.mark.skipif(gpu_is_there(), reason="tests/gpu runs the whole suite")
class TestRmm(Simulated):
    library = "rmm"


@pytest.mark.skipif(gpu_is_there(), reason="tests/gpu runs the whole suite")
class TestTvmFfi(Simulated):
    """Its tensors call no CUDA: so they are tested too, over memory of NumPy."""

    library = "tvm_ffi"

    @pytest.fixture(autouse=True)
    def _memory_lies_on_the_device(self, monkeypatch):
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))

    def new_array(self):
        memory = np.zeros(64, "u1")
        tensor = Tensor(memory.ctypes.data, (64,), None, TYPES["|u1"], CUDA, 0, read_only=False, owner=memory)
        return adapter_named("tvm_ffi").make_array(tensor, memory)

    def address_of(self, array):
        return array.data_ptr()


@pytest.mark.skipif(gpu_is_there(), reason="tests/gpu runs the whole suite")
class TestDali(Simulated):
    """Where DALI asks CUDA, it is told of the simulation: of the devices, and of a new stream."""

    library = "nvidia.dali.experimental.dynamic"

    @pytest.fixture(autouse=True)
    def _devices_are_simulated(self, adapter, monkeypatch):
        from nvidia.dali import backend, backend_impl
        from nvidia.dali.experimental.dynamic import _eval_context, _eval_mode
        from nvidia.dali.experimental.dynamic._device import Device

        for module in (backend, backend_impl):
            monkeypatch.setattr(module, "GetCUDADeviceCount", lambda: 2)
            monkeypatch.setattr(module, "GetCUDACurrentDevice", lambda: _cuda.active().current_device())
            monkeypatch.setattr(module, "SetCUDACurrentDevice", lambda _: None)  # every test of DALI's is on device 0
        monkeypatch.setattr(Device, "_default_device_type", lambda: "gpu")
        monkeypatch.setattr(backend_impl, "Stream", SimulatedStream)
        monkeypatch.setattr(_eval_context, "_tls", _eval_context._ThreadLocalStorage())
        modes = list(_eval_mode._tls.eval_mode_stack)
        yield
        assert _eval_mode._tls.eval_mode_stack == modes

    def test_operators_submit_before_they_return(self, adapter):
        """By DALI's own word for its mode. A mode that waits for more stays, and so does one that the block sets."""
        import nvidia.dali.experimental.dynamic as ndd

        stream, mode = interop.new_stream(), ndd.EvalMode
        assert mode.current() is mode.eager
        with interop.use(stream, self.library):
            assert mode.current() is mode.sync_cpu
            with mode.eager:
                assert mode.current() is mode.eager
        with mode.sync_full, interop.use(stream, self.library):
            assert mode.current() is mode.sync_full
        assert mode.current() is mode.eager

    def test_a_context_that_the_thread_has_entered_gets_the_stream(self, adapter):
        import nvidia.dali.experimental.dynamic as ndd

        own, stream = interop.new_stream(0), interop.new_stream(0)
        with ndd.EvalContext(device_id=0, cuda_stream=own) as context:
            with interop.use(stream, self.library):
                assert interop.as_stream(context.cuda_stream) == stream
            assert interop.as_stream(context.cuda_stream) == own


class SimulatedStream:
    """What DALI wraps when it creates a stream."""

    def __init__(self, device):
        self.stream = interop.new_stream(device)
        self.handle = self.stream.cuda_stream


# -- an invented library with everything, and wrong adapters for it ----------------------------------------------------


class Library(threading.local):
    """The state of the library in one thread: its current stream, and the stack of its ``with`` blocks, as in CuPy."""

    def __init__(self):
        self.stack = [Stream(0)]
        self.current = self.stack[0]


class Stream:
    def __init__(self, handle, keeps=None, device=0):
        self.handle, self.keeps, self.device = handle, keeps, device

    def __enter__(self):
        library.stack.append(self)
        library.current = self

    def __exit__(self, *_):
        library.stack.pop()
        library.current = library.stack[-1]


library = Library()


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

    def stream_handle(self, stream):
        return stream.handle or 1 if isinstance(stream, Stream) else None

    def stream_device(self, stream):
        return stream.device

    def make_stream(self, source):
        return Stream(source.handle, source, source.device)

    def event_handle(self, event):
        return event.handle if isinstance(event, Event) else None

    def record(self, event, stream):
        cuda = interop._cuda.active()
        event.handle = cuda.event_create(cuda.current_context(), 2)
        cuda.event_record(event.handle, stream.handle)

    def is_array(self, array):
        return isinstance(array, Array)

    def array_stream(self, array):
        return library.current

    def make_array(self, tensor, holder):
        return Array(holder)

    def current_stream(self):
        return library.current

    def before(self, stream):
        return library.current, list(library.stack)

    def enter(self, stream, before):
        stream.__enter__()

    def leave(self, before):
        library.current, library.stack[:] = before


def waits(method):
    """An adapter whose *method* blocks the host until the device is done."""

    def waiting(self, *arguments):
        _cuda.active().start().cudaDeviceSynchronize()
        return getattr(Everything, method)(self, *arguments)

    return type(f"WaitsIn_{method}", (Everything,), {method: waiting})


def leaves_another_device(method):
    """An adapter whose *method* leaves another device current."""

    def switching(self, *arguments):
        cuda = _cuda.active()
        found = getattr(Everything, method)(self, *arguments)
        cuda.start().cudaSetDevice(1 - cuda.current_device())
        return found

    return type(f"LeavesAnotherDeviceIn_{method}", (Everything,), {method: switching})


class Wrong:
    """Adapters with one fault each. FAULTS names the test that must find it."""

    class AcceptsAnyObject(Everything):
        def stream_handle(self, stream):
            return getattr(stream, "handle", 1) or 1

    class ReturnsNull(Everything):
        def stream_handle(self, stream):
            return stream.handle if isinstance(stream, Stream) and stream.handle > 2 else None

    class TruncatesHandles(Everything):
        def stream_handle(self, stream):
            return (stream.handle & 0xFFFF_FFFF) or 1 if isinstance(stream, Stream) else None

    class ReturnsASubclassOfInt(Everything):
        def stream_handle(self, stream):
            return http.HTTPStatus(200) if isinstance(stream, Stream) and stream.handle > 2 else None

    class RaisesForOtherObjects(Everything):
        def stream_handle(self, stream):
            return stream.handle or 1

    class SwapsTheDefaultStreams(Everything):
        def make_stream(self, source):
            return Stream({1: 2, 2: 1}.get(source.handle, source.handle), source, source.device)

    class CachesByHandle(Everything):
        def __init__(self):
            self.made = {}

        def make_stream(self, source):
            return self.made.setdefault(source.handle, super().make_stream(source))

    class ForgetsTheOwner(Everything):
        def make_stream(self, source):
            return Stream(source.handle)

    class DeniesThatItKeepsTheOwner(Everything):
        def keeps_alive(self, stream):
            return False

    class MakesAnotherStream(Everything):
        def make_stream(self, source):
            return Stream(interop.new_stream().cuda_stream, source)

    class RecordsNothing(Everything):
        def record(self, event, stream):
            cuda = interop._cuda.active()
            event.handle = cuda.event_create(cuda.current_context(), 2)

        def event_handle(self, event):
            return 0 if isinstance(event, Event) else None

    class EventsAreStreams(Everything):
        def stream_handle(self, stream):
            return stream.handle or 1 if isinstance(stream, Stream | Event) else None

    class DoesNotLeave(Everything):
        def leave(self, before):
            pass

    class DoesNotEnter(Everything):
        def enter(self, stream, before):
            pass

    class RestoresByPoppingTheStack(Everything):
        def leave(self, before):
            library.current.__exit__()

    class RestoresAnotherStream(Everything):
        def leave(self, before):
            super().leave((library.stack[0], before[1]))

    class DoesNotPushOnTheStack(Everything):
        def enter(self, stream, before):
            library.current = stream

    class SwitchesAllThreads(Everything):
        stream = Stream(0)

        def current_stream(self):
            return self.stream

        def before(self, stream):
            return self.stream

        def enter(self, stream, before):
            self.stream = stream

        def leave(self, before):
            self.stream = before

    class LosesTheOwnerInEnter(Everything):
        def enter(self, stream, before):
            super().enter(Stream(stream.handle), before)

    class LosesTheOwnerInLeave(Everything):
        def leave(self, before):
            super().leave((Stream(before[0].handle), before[1]))

    WaitsInMakeStream = waits("make_stream")
    WaitsInStreamHandle = waits("stream_handle")
    WaitsInBefore = waits("before")
    WaitsInEnter = waits("enter")
    WaitsInLeave = waits("leave")
    WaitsInCurrentStream = waits("current_stream")
    WaitsInRecord = waits("record")
    WaitsInMakeArray = waits("make_array")

    class WaitsForThePreviousStream(Everything):
        def enter(self, stream, before):
            _cuda.active().stream_synchronize(library.current.handle or 1)
            super().enter(stream, before)

    LeavesAnotherDeviceInMakeStream = leaves_another_device("make_stream")
    LeavesAnotherDeviceInStreamHandle = leaves_another_device("stream_handle")
    LeavesAnotherDeviceInBefore = leaves_another_device("before")
    LeavesAnotherDeviceInEnter = leaves_another_device("enter")
    LeavesAnotherDeviceInLeave = leaves_another_device("leave")
    LeavesAnotherDeviceInCurrentStream = leaves_another_device("current_stream")

    class ForgetsTheDevice(Everything):
        def stream_device(self, stream):
            return 0

    class CachesById(Everything):
        def __init__(self):
            self.handles = {}

        def stream_handle(self, stream):
            if not isinstance(stream, Stream):
                return None
            return self.handles.setdefault(id(stream), stream.handle or 1)

    class SaysThatStreamsLiveForEver(Everything):
        streams_stay_the_same = True

        def life(self, stream):
            return Everything  # is never collected

    class SaysNothingOfAClosedStream(SaysThatStreamsLiveForEver):
        streams_stay_the_same = False
        streams_close = True

    class RefusesSubclassesOfStreams(Everything):
        def stream_handle(self, stream):
            return stream.handle or 1 if type(stream) is Stream else None

    class RefusesSubclassesOfEvents(Everything):
        def event_handle(self, event):
            return event.handle if type(event) is Event else None

    class RefusesSubclassesOfArrays(Everything):
        def is_array(self, array):
            return type(array) is Array

    class TakesNullForThePerThreadStream(Everything):
        def stream_handle(self, stream):
            return stream.handle or 2 if isinstance(stream, Stream) else None

    class DestroysTheStream(Everything):
        def make_stream(self, source):
            made, cuda = Stream(source.handle, source), _cuda.active()
            if source.handle > 2:
                weakref.finalize(made, cuda.stream_destroy, source.handle).atexit = False
            return made

    class RecordsOnAnotherStream(Everything):
        def record(self, event, stream):
            super().record(event, Stream(1))

    class KeepsNoMemory(Everything):
        def make_array(self, memory):
            return Array()

    class RefusesItsOwnArrays(Everything):
        def problem(self, array):
            return "it is ours"

    class NamesTheWrongWriter(Everything):
        def array_stream(self, array):
            return Stream(1)

    class MakesNoArray(Everything):
        def make_array(self, tensor, holder):
            return holder

    class AcceptsAnyArray(Everything):
        def is_array(self, array):
            return True


FAULTS = {
    "AcceptsAnyObject": "test_other_objects_are_no_streams",
    "ReturnsNull": "test_to_keeps_default_streams",
    "TruncatesHandles": "test_to_makes_the_same_stream",
    "ReturnsASubclassOfInt": "test_a_stream_is_borrowed_with_its_owner",
    "RaisesForOtherObjects": "test_other_objects_are_no_streams",
    "SwapsTheDefaultStreams": "test_to_keeps_default_streams",
    "CachesByHandle": "test_to_keeps_the_owner_alive",
    "ForgetsTheOwner": "test_to_keeps_the_owner_alive",
    "DeniesThatItKeepsTheOwner": "test_to_keeps_the_owner_alive",
    "MakesAnotherStream": "test_to_makes_the_same_stream",
    "RecordsNothing": "test_a_wait_for_the_librarys_event_orders",
    "EventsAreStreams": "test_an_event_without_a_handle_is_refused",
    "RestoresAnotherStream": "test_use_can_be_nested",
    "DoesNotPushOnTheStack": "test_the_librarys_own_block_returns_to_the_stream_of_use",
    "SwitchesAllThreads": "test_use_affects_the_calling_thread_only",
    "LosesTheOwnerInEnter": "test_a_current_stream_keeps_its_owner_alive",
    "LosesTheOwnerInLeave": "test_the_same_object_is_current_again",
    "WaitsInMakeStream": "test_to_does_not_block_the_host",
    "WaitsInStreamHandle": "test_to_does_not_block_the_host",
    "WaitsInBefore": "test_use_does_not_block_the_host",
    "WaitsInEnter": "test_use_does_not_block_the_host",
    "WaitsInLeave": "test_use_does_not_block_the_host",
    "WaitsInCurrentStream": "test_use_does_not_block_the_host",
    "WaitsForThePreviousStream": "test_use_does_not_block_the_host",
    "WaitsInRecord": "test_a_wait_for_the_librarys_event_orders",
    "WaitsInMakeArray": "test_an_array_is_handed_over_in_order",
    "LeavesAnotherDeviceInMakeStream": "test_to_works_on_every_device",
    "LeavesAnotherDeviceInStreamHandle": "test_to_works_on_every_device",
    "LeavesAnotherDeviceInBefore": "test_use_works_on_every_device",
    "LeavesAnotherDeviceInEnter": "test_use_works_on_every_device",
    "LeavesAnotherDeviceInLeave": "test_use_works_on_every_device",
    "LeavesAnotherDeviceInCurrentStream": "test_use_works_on_every_device",
    "ForgetsTheDevice": "test_default_streams_keep_their_devices",
    "CachesById": "test_a_handle_is_not_remembered_for_a_later_object",
    "SaysThatStreamsLiveForEver": "test_a_stream_object_is_forgotten_at_its_end",
    "RefusesSubclassesOfStreams": "test_a_stream_of_a_subclass_is_a_stream",
    "RefusesSubclassesOfEvents": "test_an_event_of_a_subclass_is_an_event",
    "RefusesSubclassesOfArrays": "test_an_array_of_a_subclass_is_an_array",
    "SaysNothingOfAClosedStream": "test_a_stream_object_is_forgotten_at_its_end",
    "TakesNullForThePerThreadStream": "test_default_streams_are_borrowed_as_such",
    "DestroysTheStream": "test_an_object_made_by_to_does_not_destroy_the_stream",
    "RecordsOnAnotherStream": "test_a_wait_for_the_librarys_event_orders",
    "KeepsNoMemory": "test_the_end_of_an_array_orders_the_way_back",
    "RefusesItsOwnArrays": "test_the_librarys_arrays_are_known",
    "DoesNotLeave": "test_use_makes_a_stream_current",
    "DoesNotEnter": "test_use_makes_a_stream_current",
    "RestoresByPoppingTheStack": "test_leave_may_be_called_twice_and_without_need",
    "NamesTheWrongWriter": "test_the_current_stream_is_the_producer",
    "MakesNoArray": "test_an_array_is_handed_over_in_order",
    "AcceptsAnyArray": "test_other_objects_are_no_arrays",
}


class Whole(AdapterConformance):
    """The suite on the invented library, over the simulator."""

    library = "whole"
    only_addresses = True
    kind = Everything

    @pytest.fixture
    def adapter(self, registry, monkeypatch):
        monkeypatch.setattr(__import__(__name__, fromlist=["library"]), "library", Library())
        monkeypatch.setitem(sys.modules, "whole", types.ModuleType("whole"))
        for cls in (Stream, Event, Array):
            monkeypatch.setattr(cls, "__module__", "whole")
        adapter = self.kind()
        adapter.simulated = True
        interop.register("whole", adapter)
        with interop.sim.simulate(devices=2):
            monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
            yield adapter
            interop.release()

    def default_streams(self):
        return {1: Stream(0)}

    def new_event(self):
        return Event()

    def new_array(self):
        return Array()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestWhole(Whole):
    pass


class OnlyStreams(Adapter):
    """An adapter of a library that has streams only."""

    library = "whole"
    instead = "pass it"
    stream_handle = Everything.stream_handle
    make_stream = Everything.make_stream


class TestOnlyStreams(Whole):
    kind = OnlyStreams


class NamesNoWriter(OnlyStreams):
    """An adapter of a library whose arrays do not name the stream that wrote them."""

    is_array = Everything.is_array


class TestNamesNoWriter(Whole):
    kind = NamesNoWriter


@pytest.fixture(scope="module")
def failed(tmp_path_factory, run_tests):
    """The tests that failed on the wrong adapters, as ``(fault, test)``."""
    classes = [f"class Test{fault}(Whole):\n    kind = Wrong.{fault}\n" for fault in FAULTS]
    said = run_tests(
        tmp_path_factory.mktemp("wrong"),
        "\n\n".join(["from tests.testing.test_conformance import Whole, Wrong", *classes]),
        *["-p", "tests.conftest", "--import-mode=importlib", "-rf"],
        *["-k", " or ".join(f"(Test{fault} and {test})" for fault, test in FAULTS.items())],
    )
    assert said.returncode == 1, said.stdout
    return re.findall(r"FAILED \S+::Test(\w+)::(\w+)", said.stdout)


@pytest.mark.parametrize(("fault", "test"), FAULTS.items())
def test_the_fault_of_a_wrong_adapter_is_found(fault, test, failed):
    assert (fault, test) in failed
