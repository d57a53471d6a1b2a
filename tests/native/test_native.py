"""The extension in C, on the simulator: all tests of streams and events, with the fast path in use.

The extension is bound to C callbacks that call the simulator. So each fast call reaches it.
"""

import ctypes
import gc
import inspect
import pickle
import sys

import pytest

import interop
from interop import sim
from interop._core import borrowing
from interop._cuda.calls import HOT_CALLS
from interop._native import native, why_not
from interop._order import watchers
from tests.core import test_streams
from tests.core.test_streams import *  # noqa: F403  (the same tests, with the fixture below)
from tests.leaks import assert_no_leak
from tests.native_stubs import spare

pytestmark = pytest.mark.skipif(native is None, reason=why_not)

POINTER = ctypes.c_void_p
_hot = []


def _calls(name):
    """A function for the driver's entry point *name*, which calls the simulated runtime."""
    runtime_name = name.replace("cu", "cuda", 1)

    def call(*arguments):
        runtime = _hot[-1].runtime
        if name == "cuThreadExchangeStreamCaptureMode":
            mode = ctypes.c_int.from_address(arguments[0])
            code, previous = runtime.cudaThreadExchangeStreamCaptureMode(runtime.cudaStreamCaptureMode(mode.value))
            mode.value = int(previous)
            return int(code)
        made.append(name)
        result = getattr(runtime, runtime_name)(*(argument or 0 for argument in arguments[:2]), *arguments[2:])
        return int(result[0])

    def is_capturing(handle, status):
        code, answer = _hot[-1].runtime.cudaStreamIsCapturing(handle)
        ctypes.c_int.from_address(status).value = int(answer or 0)
        return int(code)

    def create(event, flags):
        made.append(name)
        code, handle = _hot[-1].runtime.cudaEventCreateWithFlags(flags)
        ctypes.c_uint64.from_address(event).value = int(handle or 0)
        return int(code)

    def get(of, found):
        code, number = getattr(_hot[-1].driver, name)(of or 0)
        ctypes.c_uint64.from_address(found).value = int(number or 0)
        return int(code)

    def get_current(found):
        code, number = _hot[-1].driver.cuCtxGetCurrent()
        ctypes.c_uint64.from_address(found).value = int(number or 0)
        return int(code)

    def set_current(context):
        return int(_hot[-1].driver.cuCtxSetCurrent(context or 0)[0])

    special = {
        "cuCtxGetCurrent": get_current,
        "cuCtxSetCurrent": set_current,
        "cuStreamIsCapturing": is_capturing,
        "cuEventCreate": create,
        "cuStreamGetCtx": get,
        "cuCtxGetId": get,
    }
    return special.get(name, call)


made = []
_TYPES = {
    "cuEventRecord": (POINTER, POINTER),
    "cuStreamWaitEvent": (POINTER, POINTER, ctypes.c_uint),
    "cuStreamIsCapturing": (POINTER, POINTER),
    "cuEventCreate": (POINTER, ctypes.c_uint),
    "cuStreamGetCtx": (POINTER, POINTER),
    "cuCtxGetId": (POINTER, POINTER),
}
_STUBS = [ctypes.CFUNCTYPE(ctypes.c_int, *_TYPES.get(name, (POINTER,)))(_calls(name)) for name in HOT_CALLS]
_ADDRESSES = tuple(ctypes.cast(stub, POINTER).value for stub in _STUBS)


def bind(addresses):
    native.bind(addresses, _hot[-1].cuda, _hot[-1].cuda._pools)


@pytest.fixture
def gpu(monkeypatch):
    with sim.simulate(devices=2) as gpu:
        _hot.append(gpu)
        gpu.cuda.uses_extension = True
        bind(_ADDRESSES)
        made.clear()
        yield gpu
        gc.collect()
    gpu.cuda.uses_extension = False


def test_a_capture_is_joined_after_the_waits_for_what_is_outside(gpu, capture):
    outside, consumer = interop.new_stream(), interop.new_stream()
    for known in (capture.stream, outside, consumer):
        known.is_capturing()
    spare = [outside.record_event() for _ in range(4)]  # the fast path needs spare events
    del spare
    consumer.wait_stream(capture.stream, outside)
    assert consumer.is_capturing()
    capture.stream.wait_stream(consumer)
    capture.end()


class Foreign:
    """Another library's stream."""


def test_the_fast_calls_are_made(gpu):
    p, c = interop.new_stream(), interop.new_stream()
    c.wait_stream(p)  # creates the spare event
    made.clear()
    c.wait_stream(p)
    assert made == ["cuEventRecord", "cuStreamWaitEvent"]
    made.clear()
    event = p.record_event()
    p.record_event(event)
    c.wait_event(event)
    assert made == ["cuEventRecord", "cuEventRecord", "cuStreamWaitEvent"]
    made.clear()
    p.query()
    p.synchronize()
    event.query()
    event.synchronize()
    assert made == ["cuStreamQuery", "cuStreamSynchronize", "cuEventQuery", "cuEventSynchronize"]


def test_events_are_created_in_a_batch(gpu):
    stream = interop.new_stream()
    stream.query()
    events = []
    made.clear()
    gpu.cuda.event_batch(stream._context, 0, 5, events)
    assert len({*events}) == 5
    gpu.cuda.event_record(events[3], stream.cuda_stream)


def test_calls_under_a_watcher_fall_back_to_python(gpu):
    p, c = interop.new_stream(), interop.new_stream()
    c.wait_stream(p)
    watcher = watchers.Watcher()
    watchers.watch(watcher)
    made.clear()
    c.wait_stream(p)
    p.query()
    p.synchronize()
    p.record_event().query()
    assert made == []
    watchers.unwatch(watcher)
    c.wait_stream(p)
    assert made


def test_per_thread_default_streams_fall_back_to_python(gpu):
    p = interop.new_stream()
    borrowed = interop.as_stream(2)
    borrowed.wait_stream(p)
    borrowed.synchronize()
    made.clear()
    borrowed.wait_stream(p)
    p.wait_stream(borrowed)
    p.wait_stream(p, borrowed)
    p.wait_stream(interop.as_stream(2))
    interop.as_stream(2).wait_stream(p)
    borrowed.record_event()
    borrowed.query()
    assert made == []


def test_a_borrowed_stream_of_another_library_takes_the_fast_path(gpu, monkeypatch):
    p, c = interop.new_stream(), interop.new_stream()
    p.query()
    c.wait_stream(p)
    foreign = Foreign()
    borrowing.remember(foreign, foreign, p._with_owner(None))
    made.clear()
    c.wait_stream(foreign)
    assert made == ["cuEventRecord", "cuStreamWaitEvent"]
    again = interop.as_stream(foreign)
    assert again == p
    assert again.owner is foreign
    assert again.to is not None
    identity = id(foreign)
    assert identity in borrowing.borrowed_by_id
    del foreign, again
    assert identity not in borrowing.borrowed_by_id
    assert identity not in borrowing.lifetimes


def test_a_timeline_records_with_the_extension(gpu):
    p, q = interop.new_stream(), interop.new_stream()
    q.wait_stream(p)
    made.clear()
    with interop.Timeline() as timeline:
        with timeline.span("work", p):
            pass
        assert made == ["cuEventRecord"] * 2
        q.wait_stream(p)
    assert len(timeline.arrows) == 1
    assert len(timeline.spans) == 1


def test_naming_an_owner_does_not_change_which_stream_the_owner_is(gpu):
    p, c, elsewhere = interop.new_stream(0), interop.new_stream(0), interop.new_stream(1)
    foreign = Foreign()
    borrowing.remember(foreign, foreign, interop.ExternalStream(p.cuda_stream, owner=foreign)._with_owner(None))
    interop.ExternalStream(elsewhere.cuda_stream, owner=foreign).query()
    c.wait_stream(foreign)
    assert interop.as_stream(foreign).device == 0


@pytest.mark.parametrize("name", ["query", "synchronize", "record_event", "wait_event", "wait_stream", "to"])
def test_fast_methods_have_docstrings_and_signatures(name):
    fast = getattr(interop.ExternalStream, name)
    assert inspect.ismethoddescriptor(fast)
    assert len(fast.__doc__) > 80
    assert "self" in inspect.signature(fast).parameters
    assert list(inspect.signature(interop.as_stream).parameters) == ["obj", "device", "name"]


def test_the_fast_as_stream_can_be_pickled():
    assert interop.as_stream.__module__ == "interop.stream"
    assert pickle.loads(pickle.dumps(interop.as_stream)) is interop.as_stream


def test_a_module_that_is_reloaded_keeps_the_fast_methods(python):
    code = """
import importlib, json
import interop, interop.stream
from interop import sim
kept = [interop.ExternalStream.query, interop.Event.query]
importlib.reload(interop.stream)
with sim.simulate():  # where each fast method calls the one in Python that it has replaced
    p, c = interop.new_stream(), interop.new_stream()
    c.wait_stream(p)
    event = interop.stream.as_stream(c.cuda_stream).record_event()
    event.synchronize()
    print(json.dumps([p.query(), event.query(), kept == [interop.ExternalStream.query, interop.Event.query]]))
"""
    assert python(code) == [True, True, True]


EXTENSION = "import json, interop, interop._native as e; print(json.dumps([e.native is None, e.why_not]))"
NOT_BUILT = "it was not built: install interop by pip, where there is a C compiler"


def test_interop_native_chooses_whether_the_extension_is_used(python):
    assert python(EXTENSION, INTEROP_NATIVE="0") == [True, "INTEROP_NATIVE=0"]
    assert python(EXTENSION, INTEROP_NATIVE="1") == [False, ""]
    assert python(EXTENSION, INTEROP_NATIVE="") == [False, ""]


def failure(code):
    return f"""import json
try:
    import interop
{code}
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize("value", ["false", "no", "off", "2", "yes", " 0"])
def test_other_values_of_the_variables_are_refused(python, value):
    said = f"INTEROP_NATIVE is 0, to leave interop's extension in C out, or 1, to insist on it; got {value!r}"
    assert python(failure(""), INTEROP_NATIVE=value) == ["ValueError", said]
    said = f"INTEROP_CHECK is 0, to leave that out, or 1, to check the stream before every operation; got {value!r}"
    assert python(failure(""), INTEROP_CHECK=value) == ["ValueError", said]


@pytest.mark.parametrize(("value", "checks"), [("", False), ("0", False), ("1", True)])
def test_interop_check_switches_checks_on(python, value, checks):
    code = "import json; from interop import _cuda; print(json.dumps([_cuda.CHECK, _cuda.GPU._extension is None]))"
    assert python(code, INTEROP_CHECK=value) == [checks, checks]


def test_a_missing_extension_says_why_it_is_missing(python):
    missing = "import sys; sys.modules['interop._native._ext'] = None\n"
    assert python(missing + EXTENSION, INTEROP_NATIVE="") == [True, NOT_BUILT]
    kind, said = python(missing + failure(""), INTEROP_NATIVE="1")
    assert kind == "ImportError"
    assert said == f"INTEROP_NATIVE=1 insists on interop's extension in C, which is missing: {NOT_BUILT}"


def test_free_threaded_python_does_not_load_the_extension(python):
    free_threaded = "import sys; sys.abiflags = 't'\n"
    why = "it is not built for free-threaded Python, which has no stable ABI"
    assert python(free_threaded + EXTENSION, INTEROP_NATIVE="") == [True, why]
    kind, said = python(free_threaded + failure(""), INTEROP_NATIVE="1")
    assert (kind, said.partition("missing: ")[2]) == ("ImportError", why)


def test_an_extension_that_fails_to_load_is_left_out(python):
    code = """
import importlib
def broken(name, load=importlib.import_module):
    if name == "interop._native._ext":
        raise ImportError("undefined symbol", name=name)
    return load(name)
importlib.import_module = broken
"""
    assert python(code + EXTENSION, INTEROP_NATIVE="") == [True, "undefined symbol"]


def test_an_error_while_an_event_is_deallocated_is_reported(python):
    code = """
import json, sys
from interop._native._ext import EventFields
class Broken:
    def event_discard(self, event):
        raise OSError
told = []
sys.unraisablehook = lambda what: told.append([type(what.object).__name__, what.exc_type.__name__])
for _ in range(1000):
    event = EventFields()
    event._flags, event._handle, event._cuda = 2, 0xE, Broken()
    del event
print(json.dumps(told))
"""
    assert python(code) == [["Broken", "OSError"]] * 1000


def own_finaliser(stream, timing):
    """An event in a cycle. Its class has a finaliser that does not call the one of the base class."""

    class Mine(interop.Event):
        def __del__(self):
            pass

    event = stream.record_event(Mine(enable_timing=timing))
    event.owner = event
    return event


def resurrected(stream, timing):
    """An event in a cycle that was finalised, resurrected by another finaliser, and recorded again."""
    kept = []

    class Keeper:
        def __del__(self):
            kept.append(self.event)

    keeper = Keeper()
    keeper.event = stream.record_event(interop.Event(enable_timing=timing))
    keeper.event.owner = keeper
    del keeper
    gc.collect()
    [event] = kept
    event.owner = event
    return stream.record_event(event)


@pytest.mark.parametrize("timing", [False, True])
@pytest.mark.parametrize("make", [own_finaliser, resurrected])
def test_an_event_that_the_collector_clears_without_its_finaliser_is_returned(gpu, monkeypatch, make, timing):
    lost, discarded = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lost.append(what.exc_value))
    stream = interop.new_stream()
    stream.query()
    event = make(stream, timing)
    handle = event._handle
    monkeypatch.setattr(gpu.cuda, "event_discard", discarded.append)
    del event
    gc.collect()
    assert lost == []
    assert [*discarded, *spare(gpu.cuda.pool(stream._context_id))].count(handle) == 1
    assert discarded == ([handle] if timing else [])


INTERPRETERS = """
import json, os
try:
    import _interpreters as interpreters
except ImportError:  # before Python 3.13
    import _xxsubinterpreters as interpreters
def create(isolated):
    if hasattr(interpreters, "new_config"):
        return interpreters.create("isolated" if isolated else "legacy")
    return interpreters.create(isolated=isolated)
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_subinterpreters_do_without_the_extension(python, isolated):
    code = f"""{INTERPRETERS}
read, write = os.pipe()
interpreters.run_string(create({isolated}), f'''
import os
from interop._native import native, why_not
os.write({{write}}, f"{{{{native}}}}: {{{{why_not}}}}".encode())
''')
os.close(write)
print(json.dumps(os.read(read, 1000).decode()))
"""
    assert python(code) in (
        "None: interop._native._ext works once, and in the main interpreter only",
        "None: module interop._native._ext does not support loading in subinterpreters",
    )


@pytest.mark.parametrize("isolated", [False, True])
def test_a_subinterpreter_does_not_disturb_the_main_one(python, isolated):
    code = f"""{INTERPRETERS}
import interop  # the main interpreter loads the extension before the subinterpreter does
other = create({isolated})
interpreters.run_string(other, "import interop")
interpreters.destroy(other)
try:
    interop.as_stream(object())
except Exception as error:
    print(json.dumps(isinstance(error, interop.errors.InvalidStreamError)))
"""
    assert python(code) is True


@pytest.fixture
def quiet(driver):
    """A function that binds the extension to stubs in C, which always succeed."""
    driver.reset()
    yield lambda: bind(driver.addresses)
    bind(_ADDRESSES)


def test_fast_calls_do_not_leak(gpu, quiet):
    p, c = interop.new_stream(), interop.new_stream()
    c.wait_stream(p)
    p.record_event()
    foreign = Foreign()
    borrowing.remember(foreign, foreign, p._with_owner(None))
    quiet()

    def once():
        event = p.record_event()
        c.wait_event(event)
        c.wait_stream(p)
        p.query()
        event.query()
        p.synchronize()
        event.synchronize()
        interop.as_stream(foreign)
        with pytest.raises(TypeError):
            p.query(1)

    assert_no_leak(once)


def test_all_tests_of_streams_run_here_too():
    here = {name for name in globals() if name.startswith("test_")}
    assert {name for name in vars(test_streams) if name.startswith("test_")} <= here
