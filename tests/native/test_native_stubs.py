"""The extension in C, bound to stubs of the driver that fail on demand: its errors, its arguments, and the GIL.

Its results are compared with those of a process without the extension, which uses the same stubs.
"""

import ctypes
import gc
import re
import sys
import threading
import time
import weakref

import pytest

import interop
from interop import _cuda, adapters, sim
from interop._core import borrowing
from interop._cuda.addresses import readable
from interop._native import native, why_not
from interop.adapters.base import Adapter
from tests.leaks import assert_no_leak
from tests.native_stubs import (
    ELSEWHERE,
    KINDS,
    OWN,
    STATED,
    Bindings,
    C,
    Driver,
    P,
    Q,
    Stating,
    World,
    bound,
    spare,
)

pytestmark = pytest.mark.skipif(native is None, reason=why_not)

OPERATIONS = {
    "query": lambda w: w.p.query(),
    "synchronize": lambda w: w.p.synchronize(),
    "record_event": lambda w: w.p.record_event(),
    "record_event, no spare event": lambda w: w.emptied().p.record_event(),
    "record_event, again": lambda w: w.p.record_event(w.event),
    "record_event, the first time": lambda w: w.p.record_event(w.fresh),
    "record_event, elsewhere": lambda w: w.elsewhere.record_event(w.event),
    "wait_event": lambda w: w.c.wait_event(w.event),
    "wait_event, never recorded": lambda w: w.c.wait_event(w.fresh),
    "wait_stream": lambda w: w.c.wait_stream(w.p),
    "wait_stream, no spare event": lambda w: w.emptied().c.wait_stream(w.p),
    "wait_stream, one spare event": lambda w: w.emptied(1).c.wait_stream(w.p),
    "wait_stream, itself": lambda w: w.p.wait_stream(w.p),
    "wait_stream, none": lambda w: w.p.wait_stream(),
    "wait_stream, several": lambda w: w.c.wait_stream(w.p, w.q),
    "wait_stream, elsewhere": lambda w: w.elsewhere.wait_stream(w.p),
    "wait_stream, by protocol": lambda w: w.c.wait_stream(w.stating),
    "wait_stream, several by protocol": lambda w: w.c.wait_stream(w.p, w.stating),
    "wait_stream, not used before": lambda _: interop.ExternalStream(C).wait_stream(interop.ExternalStream(P)),
    "wait_stream, itself, not used before": lambda w: w.p.wait_stream(interop.ExternalStream(P)),
    "wait_event, not used before": lambda w: interop.ExternalStream(C).wait_event(w.event),
    "wait_event, of another library": lambda w: w.c.wait_event(w.foreign),
    "query, legacy": lambda w: w.legacy.query(),
    "synchronize, legacy": lambda w: w.legacy.synchronize(),
    "record_event, legacy": lambda w: w.legacy.record_event(),
    "record_event, again, legacy": lambda w: w.legacy.record_event(w.event),
    "wait_event, legacy": lambda w: w.legacy.wait_event(w.event),
    "wait_stream, legacy": lambda w: w.legacy.wait_stream(w.p),
    "wait_stream, for legacy": lambda w: w.c.wait_stream(w.legacy),
    "wait_stream, legacy, of another device": lambda w: w.legacy.wait_stream(w.other_legacy),
    "wait_stream, legacy, itself": lambda w: w.legacy.wait_stream(interop.ExternalStream(1, 0)),
    "wait_stream, for several, and legacy": lambda w: w.c.wait_stream(w.p, w.legacy),
    "event.query": lambda w: w.event.query(),
    "event.query, never recorded": lambda w: w.fresh.query(),
    "event.synchronize": lambda w: w.event.synchronize(),
    "event.synchronize, never recorded": lambda w: w.fresh.synchronize(),
}
SLOW = {
    "cuEventRecord": ["record_event", "record_event, again", "wait_stream", "wait_stream, several"],
    "cuStreamWaitEvent": ["wait_event", "wait_stream", "wait_stream, several"],
    "cuStreamQuery": ["query"],
    "cuStreamSynchronize": ["synchronize"],
    "cuEventQuery": ["event.query"],
    "cuEventSynchronize": ["event.synchronize"],
}
"""The driver calls that can block, and the operations that make them."""
ASKING = ["cuStreamQuery", "cuStreamSynchronize", "cuEventQuery", "cuEventSynchronize"]
EXCHANGE = "cuThreadExchangeStreamCaptureMode"
FAILING = [*SLOW, "cuStreamIsCapturing", EXCHANGE, "cuEventCreate", "cuStreamGetCtx", "cuCtxGetId"]
CODES = [1, 100, 201, 400, 600, 700, 900, 906, 999]
# Each name stands for a list of settings, (method of Driver, *arguments). Each setting is tried by itself.
CONDITIONS = {
    "all is well": [("fail", KINDS[0], 0)],
    "p captures": [("capture", P)],
    "c captures": [("capture", C)],
    **{f"{kind} fails": [("fail", kind, code) for code in CODES] for kind in FAILING},
    "all calls with events fail": [("fail_events", code) for code in CODES],
    "the capture mode cannot be put back": [("fail", EXCHANGE, 0, code) for code in CODES],
    "q cannot be recorded": [("fail_for", Q, "cuEventRecord", code) for code in CODES],
    "q cannot be asked": [("fail_for", Q, "cuStreamIsCapturing", code) for code in CODES],
    "a blocking stream captures": [("fail_for", 1, "cuStreamIsCapturing", 906)],
    "the context is not told": [("fail", "cuCtxGetCurrent", code) for code in CODES],
    "the context cannot be switched": [("fail", "cuCtxSetCurrent", code) for code in CODES],
}
THREAD_LOCAL, RELAXED = 1, 2


def masked(text):
    """*text* with the handles of events and the addresses of objects left out."""
    return re.sub(
        "0x[0-9a-f]+", lambda found: found[0] if int(found[0], 16) in (P, Q, C, ELSEWHERE, STATED) else "0x...", text
    )


def outcome(call, *arguments, **named):
    """What a call returns or raises, as a value for JSON."""
    try:
        result = call(*arguments, **named)
    except Exception as error:
        said = [getattr(error, name, None) for name in ("code", "name", "call")]
        return [type(error).__name__, masked(str(error)), *said, type(error.__cause__).__name__]
    return result if result is None or isinstance(result, bool) else masked(repr(result))


def is_of_default(call):
    """Whether *call* is on the legacy default stream of some device."""
    return 1 in (call.first, call.second) and "Ctx" not in call.name and call.name != EXCHANGE


def tried(driver, operation, condition, *settings):
    """Run *operation* under *condition*; its outcome, the events' texts and the waits. Checks that nothing leaks."""
    with bound(driver) as cuda:
        driver.library.make_current(0)
        first = driver.number("last_event").value
        world = World(driver, cuda)
        objects = [world.p, world.q, world.c, world.elsewhere, world.event, world.fresh, world.pool]
        references = list(map(sys.getrefcount, objects))
        driver.reset(THREAD_LOCAL)
        getattr(driver, condition)(*settings)
        said = outcome(OPERATIONS[operation], world)
        assert list(map(sys.getrefcount, objects)) == references
        assert driver.library.capture_mode() == THREAD_LOCAL or EXCHANGE in settings
        assert driver.current() == 0 or "cuCtxSetCurrent" in settings
        stands_for, waits, useless = {world.event._handle: P, world.foreign.handle: STATED}, set(), set()
        for call in driver.calls:
            assert not call.gil_held
            assert call.name not in ASKING or call.mode == RELAXED
            assert not is_of_default(call) or call.context in (OWN, OWN + 1)
            if call.name == "cuEventRecord":
                stands_for[call.first] = None if call.answer else call.second
            if call.name == "cuStreamWaitEvent":
                assert stands_for[call.second], "it waits for an event whose record failed"
                waits |= set() if call.answer else {(call.first, stands_for[call.second])}
            if call.answer and call.name in ("cuEventRecord", "cuStreamWaitEvent"):
                useless.add(call.first if call.name == "cuEventRecord" else call.second)
        made = set(range(first + 16, driver.number("last_event").value + 16, 16))
        gone = [event for _, event, _ in driver.made("cuEventDestroy")]
        if operation.startswith("wait_stream") and said is not None:
            assert useless <= {*gone}, "an event whose record or wait failed is used again"
        kept = [event for pool in cuda._pools.values() for event in spare(pool)]
        assert sorted([*gone, *kept, *world.aside, world.event._handle, world.fresh._handle]) == sorted(made)
        return [said, masked(repr(world.event)), masked(repr(world.fresh)), [list(wait) for wait in sorted(waits)]]


def all_tried(driver, operation, condition):
    return [tried(driver, operation, *settings) for settings in CONDITIONS[condition]]


METHODS = {
    "query": lambda w: w.p.query,
    "synchronize": lambda w: w.p.synchronize,
    "record_event": lambda w: w.p.record_event,
    "wait_event": lambda w: w.p.wait_event,
    "wait_stream": lambda w: w.p.wait_stream,
    "to": lambda w: w.p.to,
    "event.query": lambda w: w.event.query,
    "event.synchronize": lambda w: w.event.synchronize,
    "as_stream": lambda _: interop.as_stream,
}
KEYWORDS = ["wrong", "self", "timeout", "event", "streams", "library", "obj", "device"]


def all_called(driver, method):
    """The outcomes of a method, called with arguments of wrong number, name, type or size, and with right ones."""
    with bound(driver) as cuda:
        world = World(driver, cuda)
        call = METHODS[method](world)
        said = [outcome(call)]
        for value in (
            *(None, True, False, 0, 1, 2, -1, 2**63, 2**64, 10**30, 1.5, -0.5, float("nan"), float("inf")),
            *("", "x", "interop", "\ud800", b"x", (), [], {}, int, len, ..., world.p, world.event),
        ):
            said += [outcome(call, value), outcome(call, value, value), outcome(call, value, wrong=value)]
            said += [outcome(call, **{name: value}) for name in KEYWORDS]
    return said


def everything(path):
    """All outcomes in this process. The process without the extension calls this function too."""
    driver = Driver(path)
    tries = {f"{name}, {state}": all_tried(driver, name, state) for name in OPERATIONS for state in CONDITIONS}
    return {**tries, **{method: all_called(driver, method) for method in METHODS}}


@pytest.fixture(scope="module")
def without_extension(driver, python):
    """The outcomes in a process without the extension."""
    code = "import json; from tests.native.test_native_stubs import everything; print(json.dumps(everything(%r)))"
    return python(code % driver.library._name, INTEROP_NATIVE="0")


@pytest.fixture
def world(driver):
    with bound(driver) as cuda:
        yield World(driver, cuda)


# -- errors and arguments, with the extension and without ----------------------------------------------------------


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_have_the_same_outcome_without_the_extension(driver, without_extension, operation, condition):
    assert all_tried(driver, operation, condition) == without_extension[f"{operation}, {condition}"]


@pytest.mark.parametrize("method", METHODS)
def test_arguments_have_the_same_outcome_without_the_extension(driver, without_extension, method):
    assert all_called(driver, method) == without_extension[method]


def test_control_the_compared_errors_are_the_drivers(without_extension):
    [said, *_] = without_extension["event.synchronize, cuEventSynchronize fails"][CODES.index(700)]
    assert said[0] == "CudaError"
    assert said[2:5] == [700, "cudaErrorIllegalAddress", "cudaEventSynchronize"]


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("code", [1, 400, 700, 905, 909])
def test_a_failed_call_is_not_repeated(driver, without_extension, kind, code):
    """The first error is the cause. A second call could succeed, or fail for another reason."""
    for operation in SLOW[kind]:
        [said, *_] = tried(driver, operation, "fail", kind, code, 901)
        assert len(driver.made(kind)) == 1
        assert said is not None
        assert [said, *_] == tried(driver, operation, "fail", kind, code)
        if code in CODES:
            assert [said, *_] == without_extension[f"{operation}, {kind} fails"][CODES.index(code)]


@pytest.mark.parametrize("kind", ["cuEventRecord", "cuStreamWaitEvent"])
def test_an_error_at_the_second_of_several_producers_is_raised(driver, kind):
    [said, *_] = tried(driver, "wait_stream, several", "fail", kind, 0, 700, 0)
    assert said[0] == "CudaError"
    assert len(driver.made(kind)) == 2


@pytest.mark.parametrize("operation", ["query", "synchronize", "event.query", "event.synchronize"])
def test_failing_to_restore_the_capture_mode_is_an_error(driver, world, operation):
    driver.reset(THREAD_LOCAL)
    driver.fail(EXCHANGE, 0, 1, 0)
    said = outcome(OPERATIONS[operation], world)
    assert said[2:5] == [1, "cudaErrorInvalidValue", "cudaThreadExchangeStreamCaptureMode"]
    assert [call.mode for call in driver.calls if call.name in ASKING] == [RELAXED]
    driver.reset()


def test_failing_to_restore_the_current_context_is_an_error(driver, world):
    for operation in LEGACY:
        if "itself" in operation:
            continue
        driver.library.make_current(OWN + 2)
        driver.reset()
        driver.fail("cuCtxSetCurrent", 0, 201)
        said = outcome(OPERATIONS[operation], world)
        assert said[:2] == ["CudaError", said[1]]
        assert said[2:5] == [201, "cudaErrorDeviceUninitialized", "cuCtxSetCurrent"]
    driver.library.make_current(0)


# -- the calls of the driver ---------------------------------------------------------------------------------------

FAST = {
    "query": [("cuStreamIsCapturing", P, 0), ("cuStreamQuery", P, 0)],
    "synchronize": [("cuStreamIsCapturing", P, 0), ("cuStreamSynchronize", P, 0)],
    "record_event": [("cuStreamIsCapturing", P, 0), ("cuEventRecord", "spare", P)],
    "record_event, again": [("cuStreamIsCapturing", P, 0), ("cuEventRecord", "event", P)],
    "record_event, the first time": [("cuStreamIsCapturing", P, 0), ("cuEventRecord", "fresh", P)],
    "wait_event": [("cuStreamIsCapturing", C, 0), ("cuStreamWaitEvent", C, "event")],
    "wait_stream": [("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", P), ("cuStreamWaitEvent", C, "spare")],
    "record_event, no spare event": [
        *[("cuStreamIsCapturing", P, 0), ("cuEventCreate", "new", 0), ("cuEventRecord", "new", P)],
    ],
    "wait_stream, no spare event": [
        *[("cuStreamIsCapturing", C, 0), ("cuEventCreate", "new", 0)],
        *[("cuEventRecord", "new", P), ("cuStreamWaitEvent", C, "new")],
    ],
    "wait_stream, itself": [],
    "wait_stream, none": [],
    "wait_stream, elsewhere": [
        *[("cuStreamIsCapturing", ELSEWHERE, 0), ("cuEventRecord", "spare", P)],
        ("cuStreamWaitEvent", ELSEWHERE, "spare"),
    ],
    "wait_stream, several": [
        *[("cuStreamIsCapturing", P, 0), ("cuStreamIsCapturing", Q, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", P), ("cuStreamWaitEvent", C, "spare")],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", Q), ("cuStreamWaitEvent", C, "spare")],
    ],
    "wait_stream, by protocol": [
        *[("cuStreamGetCtx", STATED, 0), ("cuCtxGetId", STATED >> 16, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "aside", STATED), ("cuStreamWaitEvent", C, "aside")],
    ],
    "wait_stream, several by protocol": [
        *[("cuStreamIsCapturing", P, 0)],
        *[("cuStreamGetCtx", STATED, 0), ("cuCtxGetId", STATED >> 16, 0), ("cuStreamIsCapturing", STATED, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", P), ("cuStreamWaitEvent", C, "spare")],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "aside", STATED), ("cuStreamWaitEvent", C, "aside")],
    ],
    "wait_stream, not used before": [
        *[("cuStreamGetCtx", C, 0), ("cuCtxGetId", OWN, 0), ("cuStreamGetCtx", P, 0), ("cuCtxGetId", OWN, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", P), ("cuStreamWaitEvent", C, "spare")],
    ],
    "wait_stream, itself, not used before": [],
    "wait_event, not used before": [
        *[("cuStreamGetCtx", C, 0), ("cuCtxGetId", OWN, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuStreamWaitEvent", C, "event")],
    ],
    "query, legacy": [("cuStreamIsCapturing", 1, 0), ("cuStreamQuery", 1, 0)],
    "synchronize, legacy": [("cuStreamIsCapturing", 1, 0), ("cuStreamSynchronize", 1, 0)],
    "record_event, legacy": [("cuStreamIsCapturing", 1, 0), ("cuEventRecord", "spare", 1)],
    "record_event, again, legacy": [("cuStreamIsCapturing", 1, 0), ("cuEventRecord", "event", 1)],
    "wait_event, legacy": [("cuStreamIsCapturing", 1, 0), ("cuStreamWaitEvent", 1, "event")],
    "wait_stream, legacy": [
        *[("cuStreamIsCapturing", 1, 0), ("cuStreamIsCapturing", P, 0)],
        *[("cuEventRecord", "spare", P), ("cuStreamWaitEvent", 1, "spare")],
    ],
    "wait_stream, for legacy": [
        *[("cuStreamIsCapturing", C, 0), ("cuStreamIsCapturing", 1, 0)],
        *[("cuEventRecord", "spare", 1), ("cuStreamWaitEvent", C, "spare")],
    ],
    "wait_stream, legacy, of another device": [
        *[("cuStreamIsCapturing", 1, 0), ("cuStreamIsCapturing", 1, 0)],
        *[("cuEventRecord", "there", 1), ("cuStreamWaitEvent", 1, "there")],
    ],
    "wait_stream, legacy, itself": [],
    "wait_stream, for several, and legacy": [
        *[("cuStreamIsCapturing", P, 0), ("cuStreamIsCapturing", 1, 0)],
        *[("cuStreamIsCapturing", C, 0), ("cuEventRecord", "spare", P), ("cuStreamWaitEvent", C, "spare")],
        *[("cuStreamIsCapturing", C, 0), ("cuStreamIsCapturing", 1, 0)],
        *[("cuEventRecord", "spare", 1), ("cuStreamWaitEvent", C, "spare")],
    ],
    "wait_event, of another library": [("cuStreamIsCapturing", C, 0), ("cuStreamWaitEvent", C, "foreign")],
    "event.query": [("cuEventQuery", "event", 0)],
    "event.synchronize": [("cuEventSynchronize", "event", 0)],
}


@pytest.mark.parametrize("operation", FAST)
def test_the_fast_path_makes_exactly_these_calls(driver, world, operation):
    [newest, *_] = spare(world.pool)
    [aside] = spare(world.apart)
    handles = {"spare": newest, "event": world.event._handle, "fresh": world.fresh._handle}
    [there] = spare(world.p._cuda.pool(OWN + 1))
    handles.update(aside=aside, there=there, foreign=world.foreign.handle, new=driver.number("last_event").value + 16)
    expected = [tuple(handles.get(argument, argument) for argument in call) for call in FAST[operation]]
    result = OPERATIONS[operation](world)
    assert driver.plain == []
    assert driver.made(*SLOW, "cuStreamIsCapturing", "cuEventCreate", "cuStreamGetCtx", "cuCtxGetId") == expected
    flags = {"cuEventCreate": _cuda.EVENT_DISABLE_TIMING}
    assert [call.flags for call in driver.calls] == [flags.get(call.name, 0) for call in driver.calls]
    assert all(call.context == OWN for call in driver.calls if call.name == "cuEventCreate")
    del result


LEGACY = [operation for operation in FAST if "legacy" in operation]


@pytest.mark.parametrize("operation", LEGACY)
@pytest.mark.parametrize("current", [0, OWN, OWN + 1, OWN + 2])
def test_default_streams_are_used_in_their_contexts_and_the_current_one_is_restored(driver, world, operation, current):
    driver.bind(current)
    driver.reset()
    OPERATIONS[operation](world)
    places = [call.context for call in driver.calls if is_of_default(call)]
    assert set(places) <= ({OWN, OWN + 1} if "another device" in operation else {OWN})
    if "another device" in operation:
        assert places == [OWN, OWN + 1, OWN + 1, OWN]
    switched = driver.made("cuCtxSetCurrent")
    assert not switched if current == OWN and "another device" not in operation else len(switched) % 2 == 0
    assert driver.plain == []
    assert driver.current() == current
    driver.bind(0)


def test_a_record_outside_of_captures_replaces_one_inside(driver, world):
    driver.capture(P)
    world.p.record_event(world.event)
    with pytest.raises(interop.errors.CaptureError):
        world.event.query()
    driver.capture(0)
    driver.plain.clear()
    world.p.record_event(world.event)
    assert driver.plain == []
    assert world.event.query()


def test_a_wait_for_an_unrecorded_event_is_refused(driver, world):
    with pytest.raises(interop.errors.UnrecordedEventError):
        world.c.wait_event(world.fresh)
    assert driver.made("cuStreamWaitEvent") == []


@pytest.mark.parametrize("operation", FAST)
def test_watched_calls_fall_back_to_python(driver, world, operation):
    native.watch(True)  # noqa: FBT003  (positional in C)
    try:
        OPERATIONS[operation](world)
    finally:
        native.watch(False)  # noqa: FBT003  (positional in C)
    plain = [name for name in driver.plain if name not in ("cuCtxPushCurrent", "cuCtxPopCurrent")]
    assert len(plain) == len(driver.calls)


def test_as_stream_returns_an_interop_stream_itself(world):
    assert interop.as_stream(world.p) is world.p


def test_to_uses_its_cache_except_for_default_streams(world):
    world.p._natives = {"alpha": world}
    assert world.p.to("alpha") is world
    world.p._natives = None
    with pytest.raises(interop.errors.LibraryNotFoundError):
        world.p.to("alpha")
    default = interop.ExternalStream(1, 0)
    default.query()
    default._natives = {"alpha": world}
    with pytest.raises(interop.errors.LibraryNotFoundError):
        default.to("alpha")


class Foreign:
    """Another library's stream."""


def test_a_real_stream_is_refused_in_a_simulation(world):
    foreign = Foreign()
    borrowing.remember(foreign, foreign, world.p._with_owner(None))
    assert interop.as_stream(foreign) == world.p
    with sim.simulate():
        for call in (interop.as_stream, world.c.wait_stream):
            with pytest.raises(interop.errors.InvalidStreamError):
                call(foreign)


def test_an_event_of_a_simulation_never_reaches_the_driver(driver, world):
    with sim.simulate():
        simulated = interop.new_stream()
        event = simulated.record_event()
        native.activate(world.p._cuda)
        for call in (world.c.wait_event, world.c.record_event):
            with pytest.raises(interop.errors.NotSupportedError):
                call(event)
        assert event.query()
        with pytest.raises(interop.errors.NotSupportedError):
            world.c.wait_stream(simulated)
        with pytest.raises(interop.errors.NotSupportedError):
            simulated.wait_stream(world.c)
        with pytest.raises(interop.errors.NotSupportedError):
            simulated.wait_event(world.event)
        assert driver.made(*SLOW) == []


# -- spare events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["wait_stream", "wait_stream, several", "wait_stream, elsewhere"])
def test_a_wait_leaves_the_spare_events_as_they_were(world, operation):
    before = spare(world.pool)
    OPERATIONS[operation](world)
    assert spare(world.pool) == before


def while_blocked(driver, kind, work, meanwhile=lambda: None):
    """Run *work* in a thread. While it is blocked in a driver call of *kind*, run *meanwhile* in this thread."""
    driver.number("busy").value = KINDS.index(kind)
    worker = threading.Thread(target=work)
    worker.start()
    limit = time.monotonic() + 20
    while not driver.number("entered").value and time.monotonic() < limit:
        time.sleep(0.001)
    driver.number("busy").value = -1
    try:
        meanwhile()
    finally:
        driver.number("let_go").value = 1
        worker.join(timeout=20)
    assert not worker.is_alive()
    assert driver.number("entered").value
    assert not driver.number("gave_up").value, "the call held the GIL: no other thread ran"


@pytest.mark.parametrize("kind", ["cuEventRecord", "cuStreamWaitEvent"])
def test_an_event_that_is_in_use_is_not_spare(driver, world, kind):
    before = spare(world.pool)
    while_blocked(driver, kind, lambda: world.c.wait_stream(world.p), lambda: world.c.wait_stream(world.q))
    used = {event for _, event, _ in driver.made("cuEventRecord")}
    assert len(used) == 2
    assert sorted(spare(world.pool)) == sorted(before)


def test_an_event_that_a_full_pool_refuses_is_destroyed(driver, world):
    [newest, *_] = spare(world.pool)
    event = world.event._handle

    def fill():
        while world.pool.give(0xE):
            pass

    while_blocked(driver, "cuStreamWaitEvent", lambda: world.c.wait_stream(world.p), fill)
    assert driver.made("cuEventDestroy") == [("cuEventDestroy", newest, 0)]
    assert not any(call.gil_held for call in driver.calls)
    del world.event
    assert driver.made("cuEventDestroy")[1:] == [("cuEventDestroy", event, 0)]
    assert len(spare(world.pool)) == 256


# -- the GIL -------------------------------------------------------------------------------------------------------


def test_control_a_call_that_holds_the_gil_is_detected(driver):
    driver.reset()
    ctypes.PyDLL(driver.library._name).cuStreamQuery(0)
    driver.library.cuStreamQuery(0)
    assert [call.gil_held for call in driver.calls] == [1, 0]


QUICK = {
    "cuStreamIsCapturing": ["query", "record_event", "wait_event", "wait_stream, several", "wait_stream"],
    "cuStreamGetCtx": ["wait_stream, by protocol"],
    "cuCtxGetId": ["wait_stream, by protocol"],
    EXCHANGE: ["query", "synchronize", "event.query", "event.synchronize"],
    "cuEventCreate": ["record_event, no spare event", "wait_stream, no spare event"],
}
"""The driver calls that interop makes before and after those in SLOW, and the operations that make them."""


@pytest.mark.parametrize(
    ("kind", "operation"),
    [(kind, operation) for kinds in (SLOW, QUICK) for kind, operations in kinds.items() for operation in operations],
)
def test_other_threads_run_while_the_driver_is_busy(driver, world, kind, operation):
    while_blocked(driver, kind, lambda: OPERATIONS[operation](world))
    assert driver.plain == []


def test_other_threads_run_while_a_handle_is_recorded(driver, world):
    event = world.event._handle
    while_blocked(driver, "cuEventRecord", lambda: native.record_handle(world.p, event))
    while_blocked(driver, "cuStreamIsCapturing", lambda: native.record_handle(world.p, event))


# -- the functions of the module -------------------------------------------------------------------------------------


def test_bind_refuses_wrong_arguments(driver, world):
    cuda = world.p._cuda
    for wrong in ((), driver.addresses[1:], (*driver.addresses, 1), ("x", *driver.addresses[1:]), 5, None):
        with pytest.raises((TypeError, SystemError)):
            native.bind(wrong, cuda, cuda._pools)
    for wrong in ((), (cuda,), (cuda, None), (cuda, 1), (cuda, {}, {})):
        with pytest.raises(TypeError):
            native.bind(driver.addresses, *wrong)
    world.p.query()  # still bound to the right ones


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        *(("record_handle", wrong) for wrong in ((), (1,), (1, 2), (None, 2))),
        *(("readable", (wrong,)) for wrong in (-1, 2**64, 1.5, "x", None)),
        *((name, wrong) for name in ("watch", "activate") for wrong in ((), (1, 2))),
        *(("make_capsule", wrong) for wrong in ((), (None,) * 3, ((1,) * 8, None, 1))),
        ("make_capsule", ((0, (1,), (), (2, 32, 1), 2, 0, False, None), None, 1)),
        ("make_tensor", ()),
        ("make_tensor", (1, (), None)),
        ("read_tensor", ()),
    ],
)
def test_functions_of_the_module_refuse_wrong_arguments(driver, world, function, arguments):
    with pytest.raises((TypeError, OverflowError, IndexError)):
        getattr(native, function)(*arguments)
    assert driver.calls == []


def test_only_a_pool_or_none_can_be_set_as_pool(driver, world):
    for thing in (world.p, world.event):
        pool = thing._pool
        for wrong in (object(), 5, world.p, "x"):
            with pytest.raises(TypeError, match="expected a Pool or None"):
                thing._pool = wrong
        assert thing._pool is pool
    del world.p._pool
    assert world.p._pool is None
    world.event._pool = None
    world.p.query()
    assert driver.plain


def test_a_stream_without_its_cuda_object_does_not_crash(world):
    del world.p._cuda
    event = world.p.record_event()
    assert event._cuda is None


class Name(str):
    """The name of a library. When it is next hashed or compared, it raises the error in ``raises``, once."""

    __slots__ = ("raises",)

    def __hash__(self):
        if self.raises:
            error, self.raises = self.raises, None
            raise error
        return str.__hash__(self)

    def __eq__(self, other):
        hash(self)
        return str.__eq__(self, other)


def test_a_keyboard_interrupt_in_a_lookup_is_raised(world):
    name = Name("alpha")
    name.raises = None
    world.p._natives = {name: world}
    assert world.p.to("alpha") is world
    name.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.p.to("alpha")
    assert world.p.to("alpha") is world


def test_a_name_that_cannot_be_hashed_is_unknown(world):
    name = Name("alpha")
    name.raises = None
    world.p._natives = {"alpha": world}
    name.raises = TypeError()
    with pytest.raises(interop.errors.LibraryNotFoundError):
        world.p.to(name)


def test_a_pool_accepts_only_handles(world):
    before = spare(world.pool)
    for wrong in (-1, 2**64, 1.5, "x", None):
        with pytest.raises((TypeError, OverflowError)):
            world.pool.give(wrong)
    assert spare(world.pool) == before


def test_record_handle_records_in_the_usual_case_only(driver, world):
    event, recorded = world.event._handle, []
    try:
        for watched in (False, True):  # a watcher makes no difference: it is not told of this record
            native.watch(watched)
            driver.reset()
            recorded.append(native.record_handle(world.p, event))
            assert driver.made("cuEventRecord") == [("cuEventRecord", event, P)]
    finally:
        native.watch(False)  # noqa: FBT003  (positional only)
    assert recorded == [True, True]
    driver.reset()
    driver.fail("cuEventRecord", 700, 0)
    with pytest.raises(interop.errors.CudaError) as raised:
        native.record_handle(world.p, event)
    assert (raised.value.code, raised.value.call) == (700, "cudaEventRecord")
    assert len(driver.made("cuEventRecord")) == 1
    driver.reset()
    driver.fail("cuStreamIsCapturing", 400)
    assert native.record_handle(world.p, event) is False
    driver.reset()
    driver.capture(P)
    assert native.record_handle(world.p, event) is False
    for wrong in (-1, 2**64, 1.5, "x", None):
        with pytest.raises((TypeError, OverflowError)):
            native.record_handle(world.p, wrong)
    assert driver.made("cuEventRecord") == []
    driver.reset()
    world.p._pool = None
    assert native.record_handle(world.p, event) is False
    assert driver.calls == []


def test_readable_agrees_with_the_version_in_python(driver):
    for address in (0, 3, 8, 4095, 4096, 2**47, 2**63, 2**64 - 1, 0x30000000, 0x30000FF8, 0x30000FFF, 0x30001000):
        assert native.readable(address) is readable(address)
    assert native.readable(STATED)


# -- other libraries' objects ----------------------------------------------------------------------------------------


class Theirs:
    """A stream of another library, which has an adapter."""


class TheirsAdapter(Adapter):
    library = "theirs"
    handle: object = STATED
    streams_stay_the_same = True

    def __init__(self):
        self.asked = 0

    def stream_handle(self, _):
        self.asked += 1
        if isinstance(self.handle, BaseException):
            raise self.handle
        return self.handle


@pytest.fixture
def theirs():
    adapter = TheirsAdapter()
    adapters.by_type[Theirs] = (adapter,)
    yield adapter
    del adapters.by_type[Theirs]


def test_an_adapter_is_asked_once_for_each_object_that_lives(driver, world, theirs):
    object_ = Theirs()
    identity = id(object_)
    world.c.wait_stream(object_)
    assert driver.plain == []
    assert theirs.asked == 1
    assert identity in borrowing.borrowed_by_id
    world.c.wait_stream(object_)
    borrowed = interop.as_stream(object_)
    assert borrowed.owner is object_
    assert (borrowed.cuda_stream, borrowed._adapter, borrowed._pool) == (STATED, theirs, world.apart)
    assert theirs.asked == 1
    del borrowed, object_
    assert identity not in borrowing.borrowed_by_id
    assert identity not in borrowing.lifetimes


def test_streams_that_may_change_are_not_remembered(driver, world, theirs):
    theirs.streams_stay_the_same = False
    object_ = Theirs()
    for times in (1, 2):
        world.c.wait_stream(object_)
        assert theirs.asked == times
    assert driver.plain == []
    assert id(object_) not in borrowing.borrowed_by_id


def test_a_stream_borrowed_from_one_driver_is_not_reused_for_another(driver, world, theirs):
    object_ = Theirs()
    assert interop.as_stream(object_)._cuda is world.p._cuda
    with bound(driver) as cuda:
        assert interop.as_stream(object_)._cuda is cuda


@pytest.mark.parametrize("says", [0, 1, None])
def test_a_default_stream_is_of_the_device_that_its_library_names(driver, world, theirs, says):
    theirs.handle, theirs.stream_device = 1, lambda _: says
    driver.bind(OWN)
    object_ = Theirs()
    driver.reset()
    world.c.wait_stream(object_)
    context = OWN + (says or 0)
    assert [call.context for call in driver.calls if call.name == "cuEventRecord"] == [context]
    borrowed = interop.as_stream(object_)
    assert (borrowed.cuda_stream, borrowed._needs, borrowed.owner, borrowed._adapter) == (1, context, object_, theirs)
    assert borrowed._device == says
    assert borrowed == interop.as_stream(object_, device=None)
    assert driver.plain == ([] if says is not None else ["cuCtxGetCurrent"] * 3)
    assert not borrowing.borrowed_by_id.keys() & {id(object_)}
    driver.bind(0)


def test_a_default_stream_of_an_unknown_context_falls_back_to_python(driver, world, theirs):
    theirs.handle = 1
    driver.bind(0)
    world.c.wait_stream(Theirs())  # without a current context, of the primary context of the current device
    assert driver.made("cuEventRecord")[-1][2] == 1
    theirs.stream_device = lambda _: 5
    with pytest.raises(interop.errors.InvalidDeviceError):
        world.c.wait_stream(Theirs())
    theirs.stream_device = lambda _: "0"
    with pytest.raises(interop.errors.InvalidDeviceError):
        world.c.wait_stream(Theirs())

    def stop(_):
        stopped.append(True)
        raise KeyboardInterrupt

    stopped, theirs.stream_device = [], stop
    with pytest.raises(KeyboardInterrupt):
        world.c.wait_stream(Theirs())
    assert len(stopped) == 1


def test_borrowing_makes_no_cuda_call(driver, world, theirs):
    for object_ in (Theirs(), Stating()):
        borrowed = interop.as_stream(object_)
        assert (borrowed.cuda_stream, borrowed.owner) == (STATED, object_)
        assert interop.as_stream(object_) == borrowed
    assert driver.calls == []
    assert driver.plain == []


class Answer(Stating):
    """States the answer that it was made with, or raises it, and counts how often."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def __cuda_stream__(self):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        *((0, handle) for handle in (-1, 3, 8, 4095, 2**47, 2**64, "x", None, True, 1.5)),
        *[(1, STATED), (True, STATED), ("0", STATED), (2**70, STATED), (0,), (0, STATED, 0), [0, STATED], None, 5],
        *[ValueError("no"), StopIteration()],
    ],
    ids=repr,
)
def test_a_wrong_answer_of_cuda_stream_raises_the_error_of_the_fallback(driver, world, answer):
    world.p._cuda.readable = native.readable
    object_ = Answer(answer)
    plain = outcome(plain_as_stream, object_)
    assert plain[0] == "InvalidStreamError"
    for call in (interop.as_stream, world.c.wait_stream, lambda wrong: world.c.wait_stream(world.p, wrong)):
        assert outcome(call, object_) == plain
    assert driver.made("cuEventRecord") == []


def plain_as_stream(object_):
    """Borrow by the function in Python: with two arguments, the fast one falls back."""
    return interop.as_stream(object_, device=None)


@pytest.mark.parametrize("call", ["as_stream", "wait_stream", "wait_stream, several"])
@pytest.mark.parametrize("kind", ["stated", "of an adapter"])
def test_a_keyboard_interrupt_while_borrowing_is_raised(driver, world, theirs, call, kind):
    interop.as_stream(Answer((0, STATED)))  # so that the adapters of its class are known
    object_ = Answer(KeyboardInterrupt()) if kind == "stated" else Theirs()
    theirs.handle = KeyboardInterrupt()
    calls = {
        "as_stream": interop.as_stream,
        "wait_stream": world.c.wait_stream,
        "wait_stream, several": lambda wrong: world.c.wait_stream(world.p, wrong),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[call](object_)
    assert (object_ if kind == "stated" else theirs).asked == 1
    assert driver.made("cuEventRecord") == []
    assert spare(world.pool)


class Chain:
    """States the stream of another Chain, and that one of the next. The last one fails. Counts the calls."""

    asked = 0

    def __init__(self, inner):
        self.inner = inner

    def __cuda_stream__(self):
        Chain.asked += 1
        if self.inner is None:
            raise ValueError("the last one")
        return (0, interop.as_stream(self.inner).cuda_stream)


@pytest.mark.parametrize("call", ["as_stream", "wait_stream"])
def test_a_chain_of_objects_is_asked_once_each(driver, world, call):
    with pytest.raises(interop.errors.InvalidStreamError):
        interop.as_stream(Chain(None))  # so that the adapters of its class are known
    chain = None
    for _ in range(12):
        chain = Chain(chain)
    Chain.asked = 0
    with pytest.raises(interop.errors.InvalidStreamError, match="the last one"):
        {"as_stream": interop.as_stream, "wait_stream": world.c.wait_stream}[call](chain)
    assert Chain.asked == 12


def test_an_object_that_states_itself_is_refused(driver, world):
    class Itself(Stating):
        def __cuda_stream__(self):
            return (0, interop.as_stream(self).cuda_stream)

    for _ in range(2):
        with pytest.raises(interop.errors.InvalidStreamError, match=r"RecursionError|Itself\.__cuda_stream__"):
            interop.as_stream(Itself())


def test_a_subclass_of_int_is_a_handle_even_with_cuda_stream(driver, world):
    class Number(int):
        def __cuda_stream__(self):
            return (0, STATED + 16)

    adapters.adapters_of(Number(STATED))  # so that the adapters of its class are known
    for call in (interop.as_stream, plain_as_stream):
        assert (call(Number(STATED)).cuda_stream, call(Number(STATED)).owner) == (STATED, None)
    world.c.wait_event(Number(STATED))
    assert driver.made("cuStreamWaitEvent") == [("cuStreamWaitEvent", C, STATED)]


def test_a_stream_without_base_init_does_not_crash(python):
    code = """
import json
import interop

class Mine(interop.ExternalStream):
    def __init__(self):
        self._handle = 0x10010

try:
    Mine().query()
except AttributeError:
    print(json.dumps(True))
"""
    assert python(code) is True


def test_each_of_several_producers_is_asked_once(driver, world):
    interop.as_stream(Answer((0, STATED)))  # so that the adapters of its class are known
    object_ = Answer((0, STATED))
    world.c.wait_stream(world.p, object_, world.q)
    assert object_.asked == 1
    assert [stream for kind, _, stream in driver.made("cuEventRecord")] == [P, STATED, Q]


def test_cuda_stream_is_looked_up_on_the_class(driver, world):
    class Proxy:
        def __getattr__(self, name):
            return lambda: (0, STATED)

    class Meta(type):
        def __cuda_stream__(cls):
            return (0, STATED)

    class ByMeta(metaclass=Meta):
        pass

    for wrong in (Proxy(), ByMeta, Stating):
        plain = outcome(plain_as_stream, wrong)
        assert plain[0] == "InvalidStreamError"
        assert outcome(interop.as_stream, wrong) == outcome(interop.as_stream, wrong) == plain
    attribute = Proxy()
    attribute.__cuda_stream__ = (0, STATED)
    for _ in range(2):
        assert interop.as_stream(attribute).cuda_stream == STATED

    class ByProperty:
        @property
        def __cuda_stream__(self):
            return (0, STATED)

    over = Stating()
    over.__cuda_stream__ = (0, STATED + 16)
    for _ in range(2):
        for call in (interop.as_stream, plain_as_stream):
            assert call(ByProperty()).cuda_stream == STATED
            assert call(over).cuda_stream == STATED + 16


def test_errors_of_an_adapter_are_raised(driver, world, theirs):
    def life(_):
        raise RuntimeError("its life")

    theirs.life = life
    for call in (interop.as_stream, world.c.wait_stream):
        with pytest.raises(RuntimeError, match="its life"):
            call(Theirs())
    theirs.life = lambda _: 5  # to which there are no weak references
    with pytest.raises(TypeError, match="weak reference"):
        world.c.wait_stream(Theirs())
    theirs.life = lambda _: None
    world.c.wait_stream(Theirs())
    theirs.handle = None
    for call in (interop.as_stream, world.c.wait_stream):
        with pytest.raises(interop.errors.InvalidStreamError):
            call(Theirs())
    theirs.handle, theirs.simulated = STATED, True
    with pytest.raises(interop.errors.NotSupportedError):
        world.c.wait_stream(Theirs())
    theirs.handle, theirs.simulated = 0, False
    with pytest.raises(interop.errors.AdapterError):
        world.c.wait_stream(Theirs())
    assert borrowing.borrowed_by_id.keys() <= borrowing.lifetimes.keys()


@pytest.mark.parametrize("handle", [-1, 0, 1, 8, 4095, 2**47, 2**64, True, None, "x", 1.5, ValueError("no")], ids=repr)
def test_a_wrong_event_handle_raises_the_error_of_the_fallback(driver, world, theirs, handle):
    def event_handle(_):
        if isinstance(handle, Exception):
            raise handle
        return handle

    world.p._cuda.readable = native.readable
    theirs.event_handle = event_handle
    object_ = Theirs()
    plain = outcome(lambda: world.c.wait_event(event=object_))
    assert plain[0] in ("InvalidEventError", "AdapterError", "UnrecordedEventError")
    assert outcome(world.c.wait_event, object_) == plain
    assert driver.made("cuStreamWaitEvent") == []


def test_another_librarys_event_is_asked_once_and_not_in_a_simulation(driver, world, theirs):
    asked = []

    def event_handle(_):
        asked.append(True)
        raise KeyboardInterrupt

    theirs.event_handle = event_handle
    with pytest.raises(KeyboardInterrupt):
        world.c.wait_event(Theirs())
    assert len(asked) == 1
    theirs.event_handle = lambda _: STATED
    world.c.wait_event(Theirs())
    assert driver.plain == []
    with sim.simulate(), pytest.raises(interop.errors.InteropError):
        world.c.wait_event(Theirs())
    assert len(driver.made("cuStreamWaitEvent")) == 1


def test_the_cache_of_to_may_be_cleared_during_a_lookup(world):
    class Going(Name):
        def __eq__(self, other):
            world.p._natives = None
            return False

        __hash__ = str.__hash__

    name = Going("alpha")
    name.raises = None
    world.p._natives = {name: world}
    with pytest.raises(interop.errors.LibraryNotFoundError):
        world.p.to("alpha")


def test_waits_for_other_libraries_objects_do_not_leak(driver, world, theirs):
    known = Theirs()

    def once():
        driver.reset()
        world.c.wait_stream(known)
        world.c.wait_stream(world.stating)
        world.c.wait_stream(Theirs())
        world.c.wait_stream(world.p, known, world.stating, Theirs())
        for wrong in ((object(),), (known, object()), (known, world.stating, object())):
            with pytest.raises(interop.errors.InvalidStreamError):
                world.c.wait_stream(*wrong)
        assert driver.plain == []

    assert_no_leak(once)


# -- when the extension is used ---------------------------------------------------------------------------------------


class WithEntryPoints(Bindings):
    """The bindings, with ``cudaGetDriverEntryPointByVersion``."""

    answers = ()

    def cudaStreamGetId(self, stream):  # noqa: N802  (CUDA's name)
        return self.cudaError_t(0), stream

    def cudaGetDriverEntryPointByVersion(self, name, _version, _flags):  # noqa: N802  (CUDA's name)
        code, factor = next(iter(self.answers), (0, 1))
        self.answers = self.answers[1:]
        return self.cudaError_t(code), factor * self._driver.addresses[KINDS.index(name.decode())], 0


@pytest.mark.parametrize(
    ("answers", "check", "hot"),
    [
        pytest.param((), False, True, id="all found"),
        pytest.param(((36, 1),), False, False, id="driver too old"),
        pytest.param(((500, 0),), False, False, id="not found"),
        pytest.param(((0, 0),), False, False, id="null address"),
        pytest.param((), True, False, id="INTEROP_CHECK"),
    ],
)
def test_a_driver_without_an_entry_point_is_used_from_python(driver, monkeypatch, answers, check, hot):
    bindings = WithEntryPoints(driver)
    bindings.answers = answers
    cuda = _cuda.Cuda(lambda: (bindings, bindings), native.readable, extension=None if check else native)
    monkeypatch.setattr(_cuda, "CHECK", check)
    before = _cuda.activate(cuda)
    driver.reset()
    try:
        p, c = interop.ExternalStream(STATED), interop.ExternalStream(STATED + 16)
        for _ in range(3):
            c.wait_stream(p)
        assert cuda.uses_extension is hot
        assert len(driver.made("cuStreamWaitEvent")) == 3
        driver.plain.clear()
        c.wait_stream(p)
        c.wait_stream(Stating())
        assert ("cuStreamWaitEvent" not in driver.plain) is hot
    finally:
        _cuda.activate(before)


def cycle_of_a_stream(thing):
    thing.part = interop.ExternalStream(P, owner=thing)


def cycle_of_an_event(thing):
    thing.part = interop.Event()
    thing.part.owner = thing


@pytest.mark.parametrize("close", [cycle_of_a_stream, cycle_of_an_event])
def test_a_cycle_through_an_owner_is_collected(world, close):
    thing = Foreign()
    close(thing)
    alive = weakref.ref(thing)
    del thing
    assert alive() is not None
    gc.collect()
    assert alive() is None
