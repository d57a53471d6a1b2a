"""Borrowing: the libraries' real objects, which can be made without a driver; no test here reaches CUDA.

The subprocess below loads this file too, so it uses nothing of ``conftest.py`` outside the tests.
"""

import importlib
import inspect
import os
import subprocess
import sys
import types
import warnings
import weakref
from pathlib import Path

import pytest

import interop
from interop import _cuda, adapters, as_event, as_stream, sim
from interop.adapters import adapter_named
from interop.adapters.base import Adapter, Source
from interop.errors import InvalidEventError, InvalidStreamError, NotSupportedError, UnrecordedEventError
from tests.threads import in_thread

# -- streams to borrow: functions of an address, and of a function that derives a class -----------------------------


class Method:
    """The protocol as it is specified."""

    def __init__(self, handle):
        self.stated = (0, handle)

    def __cuda_stream__(self):
        return self.stated


class Attribute:
    """The protocol as an attribute, as some libraries have it."""

    def __init__(self, handle):
        self.__cuda_stream__ = (0, handle)


class Property:
    """The same as a class attribute."""

    def __init__(self, handle):
        self.stated = (0, handle)

    @property
    def __cuda_stream__(self):
        return self.stated


class PyCudaStream:
    """PyCUDA's streams hold an int."""

    def __init__(self, handle):
        self.handle = handle


def as_is(cls):
    return cls


def subclass(cls):
    return type("Mine", (cls,), {"__module__": "users.own.module"})


def bare(cls, _handle):
    return object.__new__(cls)


def cupy_external_stream(handle, derive=as_is):
    import cupy

    with warnings.catch_warnings(action="ignore"):  # deprecated, and used
        return derive(cupy.cuda.ExternalStream)(handle)


def cupy_from_external(handle, derive=as_is):
    import cupy

    return derive(cupy.cuda.Stream).from_external(Method(handle))


def numba_stream(handle, derive=as_is):
    from cuda.bindings import driver
    from numba.cuda.cudadrv.driver import Stream

    return derive(Stream)(driver.CUstream(handle), external=True)


def numba_cuda_mlir_stream(handle, derive=as_is):
    from cuda.bindings import driver
    from numba_cuda_mlir.numba_cuda.cudadrv.driver import Stream

    return derive(Stream)(driver.CUstream(handle), external=True)


def cuda_core_stream(handle):
    from cuda.core import Stream

    return Stream.from_handle(handle)


def rmm_stream(handle, derive=as_is):
    from rmm.pylibrmm.stream import Stream

    return derive(Stream)(Method(handle))


def torch_stream(handle, derive=as_is):
    """Of a build without CUDA: torch makes no stream in one, so this is its class with a handle of its own."""
    import torch

    if torch.backends.cuda.is_built():
        pytest.skip("a CUDA build of torch makes real streams only")
    fake = {"__new__": bare, "__init__": lambda self, handle: setattr(self, "cuda_stream", handle)}
    return derive(type("Stream", (torch.cuda.Stream,), {"__module__": "torch.cuda", **fake}))(handle)


def runtime_stream(handle, derive=as_is):
    from cuda.bindings import runtime

    return derive(runtime.cudaStream_t)(handle)


def driver_stream(handle, derive=as_is):
    from cuda.bindings import driver

    return derive(driver.CUstream)(handle)


def protocol(cls):
    return lambda handle, derive=as_is: derive(cls)(handle)


OF_LIBRARIES = {
    "cupy.ExternalStream": (cupy_external_stream, "cupy"),
    "cupy.from_external": (cupy_from_external, "cupy"),
    "numba": (numba_stream, "numba"),
    "numba_cuda_mlir": (numba_cuda_mlir_stream, "numba_cuda_mlir"),
    "cuda.core": (cuda_core_stream, "cuda.core"),
    "rmm": (rmm_stream, "rmm"),
    "torch": (torch_stream, "torch"),
    "cudaStream_t": (runtime_stream, "cuda.bindings"),
    "CUstream": (driver_stream, "cuda.bindings"),
}
OF_NO_LIBRARY = {
    "method": (protocol(Method), None),
    "attribute": (protocol(Attribute), None),
    "property": (protocol(Property), None),
    "PyCUDA": (protocol(PyCudaStream), None),
}
OBJECTS = OF_LIBRARIES | OF_NO_LIBRARY
FOLLOWS_THE_BINDINGS = {"int", "numba", "cuda.core", "cudaStream_t", "CUstream", *OF_NO_LIBRARY}
"""Where 0 means the same as in cuda.bindings. Elsewhere it is the legacy stream."""


def needs(library):
    return [pytest.mark.needs(library)] if library else []


def params(table, *, without=()):
    return [
        pytest.param(make, id=name, marks=needs(library))
        for name, (make, library) in table.items()
        if name not in without
    ]


def origin(table, make):
    """The part of a repr that names the library."""
    library = next(library for maker, library in table.values() if maker is make)
    return f" of {library}" if library else ""


every_object = pytest.mark.parametrize("make", params(OBJECTS))
# cuda.core's from_handle makes cuda.core.Streams, whatever class it is called on.
every_class = pytest.mark.parametrize("make", params(OBJECTS, without={"cuda.core"}))


@pytest.fixture
def no_cuda(monkeypatch):
    """Every CUDA call of interop fails the test."""

    def load():
        pytest.fail("CUDA was called")

    monkeypatch.setattr(_cuda.GPU, "load", load)
    monkeypatch.setattr(_cuda.GPU, "_runtime", None)


# -- streams --------------------------------------------------------------------------------------------------------


def check(stream, handle, owner):
    assert type(stream) is interop.ExternalStream
    assert stream.cuda_stream == stream.ptr == handle
    assert stream.__cuda_stream__() == (0, handle)
    assert stream.owner is owner


@every_object
@pytest.mark.usefixtures("no_cuda")
def test_object(make, address):
    obj = make(address)
    check(as_stream(obj), address, obj)


@every_class
@pytest.mark.usefixtures("no_cuda")
def test_subclass_of_a_user(make, address):
    obj = make(address, subclass)
    assert type(obj).__module__ == "users.own.module"
    stream = as_stream(obj)
    check(stream, address, obj)
    assert repr(stream) == f"<interop.ExternalStream {address:#x}{origin(OBJECTS, make)}>"


@every_object
@pytest.mark.usefixtures("no_cuda")
def test_repr_names_the_library_without_cuda(make, address):
    assert repr(as_stream(make(address))) == f"<interop.ExternalStream {address:#x}{origin(OBJECTS, make)}>"


@pytest.mark.usefixtures("no_cuda")
def test_int(address):
    check(as_stream(address), address, None)
    assert repr(as_stream(address)) == f"<interop.ExternalStream {address:#x}>"


def test_borrowing_again_gives_the_same(address):
    stream = as_stream(address)
    assert as_stream(stream) is stream


@pytest.mark.usefixtures("no_cuda")
def test_external_stream_of_an_address(address):
    owner = object()
    check(interop.ExternalStream(address), address, None)
    check(interop.ExternalStream(stream_ptr=address, device=None, owner=owner), address, owner)


@every_class
def test_owner_lives_as_long_as_the_stream(make, address):
    obj = make(address, subclass)  # a subclass has weak references; not every library's class has
    alive = weakref.ref(obj)
    stream = as_stream(obj)
    del obj
    assert alive() is stream.owner
    del stream
    assert alive() is None


@pytest.mark.usefixtures("no_cuda")
def test_registered_library(acme, address):
    for cls in (acme.Stream, subclass(acme.Stream)):
        obj = cls(address)
        stream = as_stream(obj)
        check(stream, address, obj)
        assert repr(stream) == f"<interop.ExternalStream {address:#x} of acme>"


@pytest.mark.usefixtures("registry", "no_cuda")
@pytest.mark.parametrize("look_up", ["_library_of", "known"])
def test_a_library_that_is_registered_while_another_thread_looks_it_up(monkeypatch, look_up, address):
    module = types.ModuleType("acme")
    module.Stream = subclass(Method)
    module.Stream.__module__ = "acme"
    monkeypatch.setitem(sys.modules, "acme", module)
    adapter = type("Acme", (Adapter,), {"library": "acme", "stream_handle": lambda _, stream: stream.handle})()
    before, registered = getattr(adapters, look_up), []

    def registered_meanwhile(*arguments):
        answer = before(*arguments)
        if not registered:
            registered.append("acme")
            in_thread(lambda: interop.register("acme", adapter))
        return answer

    def look():
        return [*adapters.adapters_of(module.Stream(address)), *adapters._candidates(adapters._registrations)]

    monkeypatch.setattr(adapters, look_up, registered_meanwhile)
    look()
    assert registered
    assert adapter in look()
    assert "acme" in look()


# -- the default streams --------------------------------------------------------------------------------------------


def borrowed_handle(name, handle):
    if name == "int":
        return as_stream(handle).cuda_stream
    obj = OBJECTS[name][0](handle)
    if name == "torch":  # torch's default streams have a device, which interop would ask the driver for
        return adapter_named("torch").stream_handle(obj)
    return as_stream(obj).cuda_stream


every_origin = pytest.mark.parametrize(
    "name", ["int", *(pytest.param(name, marks=needs(library)) for name, (_, library) in OBJECTS.items())]
)


@every_origin
@pytest.mark.parametrize(("handle", "resolved"), [(0, 1), (1, 1), (2, 2)])
def test_default_stream(name, handle, resolved, monkeypatch):
    monkeypatch.delenv("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", raising=False)
    assert borrowed_handle(name, handle) == resolved


@pytest.fixture(scope="module")
def per_thread(python):
    """By origin, what the handles 0, 1 and 2 are where cuda.bindings' default stream is the per-thread one."""
    code = f"""
import importlib.util, json
spec = importlib.util.spec_from_file_location("here", {__file__!r})
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
resolved = {{}}
for name in ["int", *here.OBJECTS]:
    try:
        resolved[name] = [here.borrowed_handle(name, handle) for handle in range(3)]
    except (ModuleNotFoundError, here.pytest.skip.Exception):
        pass
print(json.dumps(resolved))
"""
    return python(code, CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM="1")


@every_origin
def test_default_stream_where_the_bindings_have_one_per_thread(name, per_thread):
    if name not in per_thread:
        pytest.skip(f"no {name} stream is made here: a CUDA build of torch makes real ones only")
    assert per_thread[name] == [2 if name in FOLLOWS_THE_BINDINGS else 1, 1, 2]


@pytest.mark.needs("cuda.core")
@pytest.mark.parametrize("value", ["0", "1", "2", "01", None])
def test_default_stream_is_what_cuda_core_says(value, monkeypatch):
    from cuda.core._stream import default_stream

    name = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)
    assert as_stream(0).cuda_stream == as_stream(default_stream()).cuda_stream


@pytest.mark.parametrize(
    ("path", "name", "handle"),
    [
        pytest.param(path, name, handle, marks=pytest.mark.needs(path.split(".")[0] if "core" not in path else path))
        for path, name, handle in [
            ("cupy.cuda", "Stream.null", 1),
            ("cupy.cuda", "Stream.ptds", 2),
            ("cuda.core", "LEGACY_DEFAULT_STREAM", 1),
            ("cuda.core", "PER_THREAD_DEFAULT_STREAM", 2),
            ("rmm.pylibrmm.stream", "DEFAULT_STREAM", 1),
            ("rmm.pylibrmm.stream", "LEGACY_DEFAULT_STREAM", 1),
            ("rmm.pylibrmm.stream", "PER_THREAD_DEFAULT_STREAM", 2),
        ]
    ],
)
def test_default_stream_object(path, name, handle):
    import importlib
    import operator

    obj = operator.attrgetter(name)(importlib.import_module(path))
    check(as_stream(obj), handle, obj)


@pytest.mark.needs("no_gpu")  # where there is one, the repr names its device's context
@pytest.mark.parametrize(("handle", "words"), [(0, "legacy default"), (1, "legacy default"), (2, "per-thread default")])
def test_repr_of_a_default_stream(handle, words):
    assert repr(as_stream(handle)) == f"<interop.ExternalStream {words}>"


def test_per_thread_stream_stays_in_its_thread():
    borrowed = in_thread(lambda: as_stream(2))
    assert as_stream(2) == as_stream(2) != borrowed
    for operation in (borrowed.query, borrowed.record_event, borrowed.__enter__):
        with pytest.raises(InvalidStreamError, match=r"per-thread.*was borrowed in another thread"):
            operation()


# -- equality -------------------------------------------------------------------------------------------------------


@every_object
def test_a_stream_is_equal_whichever_library_it_is_borrowed_from(make, address):
    ours, theirs = as_stream(address), as_stream(make(address))
    assert ours == theirs
    assert hash(ours) == hash(theirs)
    assert {ours, theirs} == {ours}


@every_object
def test_another_stream_is_not_equal(make, address):
    assert as_stream(address) != as_stream(make(address + 64))


def test_default_streams_are_equal_to_themselves_only(address):
    assert [[as_stream(one) == as_stream(two) for two in (1, 2, address)] for one in (1, 2, address)] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


def test_a_stream_is_not_equal_to_other_objects(address):
    stream = as_stream(address)
    assert [stream == other for other in (address, (0, address), Method(address), None)] == [False] * 4


# -- ours, given to others ------------------------------------------------------------------------------------------


# cuda.core asks the driver for the context of a stream that it is given, so it is tested on a GPU.
@pytest.mark.needs("cupy")
def test_cupy_takes_ours_and_keeps_it_alive(address):
    import cupy

    owner = Method(address)
    alive = weakref.ref(owner)
    theirs = cupy.cuda.Stream.from_external(as_stream(owner))
    del owner
    assert theirs.ptr == address
    assert alive() is not None
    assert as_stream(theirs) == as_stream(address)


@pytest.mark.needs("rmm")
def test_rmm_takes_ours_and_keeps_it_alive(address):
    from rmm.pylibrmm.stream import Stream

    owner = Method(address)
    alive = weakref.ref(owner)
    theirs = Stream(as_stream(owner))
    del owner
    assert theirs.__cuda_stream__() == (0, address)
    assert alive() is not None
    assert as_stream(theirs) == as_stream(address)


@pytest.mark.parametrize("library", ["numba", "numba_cuda_mlir"])
def test_numba_takes_no_stream_of_a_green_context(library, monkeypatch, address, interop_need):
    interop_need(library)
    cuda = importlib.import_module(f"{library}.cuda")
    said = "Numba cannot operate on non-primary CUDA context 5"

    def refuse(_):
        raise RuntimeError(said)

    monkeypatch.setattr(cuda, "external_stream", refuse)
    with pytest.raises(NotSupportedError, match=r"primary context.*new_stream\(device\)") as raised:
        adapter_named(library).make_stream(Source(address, 0, None))
    assert str(raised.value.__cause__) == said
    said = "another error"
    with pytest.raises(RuntimeError, match="another error"):
        adapter_named(library).make_stream(Source(address, 0, None))


@pytest.mark.needs("numba", "numba_cuda_mlir")
@pytest.mark.usefixtures("no_cuda")
def test_numba_and_its_successor_are_told_apart(address):
    old, new = as_stream(numba_stream(address)), as_stream(numba_cuda_mlir_stream(address))
    assert old == new
    assert [repr(stream).rpartition(" ")[2] for stream in (old, new)] == ["numba>", "numba_cuda_mlir>"]


# -- events ---------------------------------------------------------------------------------------------------------


def numba_event(handle, derive=as_is):
    from cuda.bindings import driver
    from numba.cuda.cudadrv.driver import Event

    return derive(Event)(driver.CUevent(handle))


def numba_cuda_mlir_event(handle, derive=as_is):
    from cuda.bindings import driver
    from numba_cuda_mlir.numba_cuda.cudadrv.driver import Event

    return derive(Event)(driver.CUevent(handle))


def cupy_event(handle, derive=as_is):
    """CuPy creates its events, which takes a driver: so this is its class with a handle of its own."""
    import cupy

    fake = {"__init__": lambda self, ptr: setattr(self, "ptr", ptr), "__del__": lambda _: None}
    return derive(type("Event", (cupy.cuda.Event,), {"__module__": "cupy.cuda.stream", **fake}))(handle)


def cuda_core_event(handle, derive=as_is):
    """Likewise."""
    from cuda.bindings import driver
    from cuda.core import Event

    fake = {"__init__": lambda self, handle: None, "handle": driver.CUevent(handle)}  # noqa: ARG005
    return derive(type("Event", (Event,), {"__module__": "cuda.core", **fake}))(handle)


def torch_event(handle, derive=as_is):
    """Likewise."""
    import torch

    if torch.backends.cuda.is_built():
        pytest.skip("a CUDA build of torch makes real events only")
    fake = {"__new__": bare, "__init__": lambda self, handle: setattr(self, "cuda_event", handle)}
    return derive(type("Event", (torch.cuda.Event,), {"__module__": "torch.cuda", **fake}))(handle)


def runtime_event(handle, derive=as_is):
    from cuda.bindings import runtime

    return derive(runtime.cudaEvent_t)(handle)


def driver_event(handle, derive=as_is):
    from cuda.bindings import driver

    return derive(driver.CUevent)(handle)


EVENTS = {
    "numba": (numba_event, "numba"),
    "numba_cuda_mlir": (numba_cuda_mlir_event, "numba_cuda_mlir"),
    "cupy": (cupy_event, "cupy"),
    "cuda.core": (cuda_core_event, "cuda.core"),
    "torch": (torch_event, "torch"),
    "cudaEvent_t": (runtime_event, "cuda.bindings"),
    "CUevent": (driver_event, "cuda.bindings"),
}


@pytest.mark.parametrize("derive", [as_is, subclass])
@pytest.mark.parametrize("make", params(EVENTS))
@pytest.mark.usefixtures("no_cuda")
def test_event(make, derive, address):
    obj = make(address, derive)
    event = as_event(obj)
    assert type(event) is interop.Event
    assert event.cuda_event == event.ptr == address
    assert event.owner is obj
    assert repr(event) == f"<interop.Event {address:#x}{origin(EVENTS, make)}>"


@pytest.mark.parametrize("make", params(EVENTS))
def test_owner_lives_as_long_as_the_event(make, address):
    obj = make(address, subclass)
    alive = weakref.ref(obj)
    event = as_event(obj)
    del obj
    assert alive() is event.owner
    del event
    assert alive() is None


@pytest.mark.usefixtures("no_cuda")
def test_event_of_an_address(address):
    event = as_event(address)
    assert event.cuda_event == event.ptr == address
    assert event.owner is None
    assert as_event(event) is event


@pytest.mark.needs("torch")
@pytest.mark.usefixtures("no_cuda")
def test_torch_event_gets_its_handle_when_it_is_recorded(address):
    theirs = torch_event(0)
    ours = as_event(theirs)
    with pytest.raises(UnrecordedEventError, match=r"query <interop.Event 0x0 of torch>.*never recorded"):
        as_event(theirs).query()
    theirs.cuda_event = address
    assert ours.cuda_event == address


class GenericEvent:
    """A GPU's event: mixed into torch.Event, which a build without CUDA makes for the CPU only."""

    kind, event_id = "cuda", 0

    @property
    def device(self):
        return types.SimpleNamespace(type=self.kind)


@pytest.mark.needs("torch")
@pytest.mark.usefixtures("no_cuda")
def test_the_generic_event_of_torch(address):
    import torch

    theirs = type("Event", (GenericEvent, torch.Event), {"__module__": "torch"})()
    ours = as_event(theirs)
    assert repr(ours) == "<interop.Event 0x0 of torch>"
    theirs.event_id = address
    assert ours.cuda_event == as_event(theirs).cuda_event == address
    assert ours.owner is theirs
    theirs.kind = "cpu"
    with pytest.raises(InvalidEventError, match="Event"):
        as_event(theirs)
    with pytest.raises(InvalidEventError, match="Event"):
        as_event(torch.Event(device="cpu"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "not recorded"),
        ({"enable_timing": True, "blocking": True}, "timing, blocking, not recorded"),
        ({"interprocess": True}, "interprocess, not recorded"),
    ],
)
@pytest.mark.usefixtures("no_cuda")
def test_repr_of_an_event_of_ours(flags, words):
    assert repr(interop.Event(**flags)) == f"<interop.Event 0x0 {words}>"


# -- the surface of torch -------------------------------------------------------------------------------------------


@pytest.mark.needs("torch")
class TestSurfaceOfTorch:
    # What torch's C base classes add is not there in a CPU build, and more than is documented in one for CUDA: the
    # documented names, by hand.
    STREAM = ("cuda_stream", "device", "is_capturing", "priority", "stream_id")
    EVENT = ("cuda_event",)

    @pytest.mark.parametrize(
        ("ours", "theirs", "more"),
        [(interop.ExternalStream, "ExternalStream", STREAM), (interop.Event, "Event", EVENT)],
    )
    def test_every_name_is_there(self, ours, theirs, more):
        import torch

        classes = [cls for cls in getattr(torch.cuda, theirs).__mro__ if cls.__module__ == "torch.cuda.streams"]
        names = {name for cls in classes for name in vars(cls) if not name.startswith("_")} | set(more)
        assert len(names) > 5
        assert not [name for name in names if not hasattr(ours, name)]
        assert not [name for name in names if callable(getattr(ours, name)) and not getattr(ours, name).__doc__]

    @pytest.mark.parametrize(
        ("ours", "theirs", "name"),
        [
            *[
                (interop.ExternalStream, "ExternalStream", name)
                for name in ("query", "synchronize", "record_event", "wait_event", "wait_stream")
            ],
            *[
                (interop.Event, "Event", name)
                for name in ("record", "wait", "query", "elapsed_time", "synchronize", "ipc_handle", "from_ipc_handle")
            ],
        ],
    )
    def test_arguments_of_torch_fit(self, ours, theirs, name):
        import torch

        wanted = inspect.signature(getattr(getattr(torch.cuda, theirs), name)).parameters
        inspect.signature(getattr(ours, name)).bind(*wanted)

    def test_constructors_take_torchs_arguments_by_name(self):
        import torch

        wanted = inspect.signature(torch.cuda.ExternalStream.__new__).parameters
        mine = inspect.signature(interop.ExternalStream).parameters
        assert list(wanted)[1:3] == list(mine)[:2] == ["stream_ptr", "device"]
        wanted = inspect.signature(torch.cuda.Event.__new__).parameters
        mine = inspect.signature(interop.Event).parameters
        assert list(wanted)[1:4] == list(mine)[:3] == ["enable_timing", "blocking", "interprocess"]


class StaysTheSame(Adapter):
    library = "acme"
    streams_stay_the_same = True

    def stream_handle(self, stream):
        return stream.raw_stream


def test_a_stream_that_was_borrowed_before_is_refused_in_a_simulation(registry, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "acme", types.ModuleType("acme"))
    interop.register("acme", StaysTheSame())
    theirs = type("Stream", (), {"__module__": "acme", "raw_stream": address})()
    assert interop.as_stream(theirs) == interop.as_stream(theirs)
    with sim.simulate(), pytest.raises(NotSupportedError, match="of acme is a stream of a GPU, and a simulation runs"):
        interop.as_stream(theirs)


AT_EXIT = """
import interop
from interop import adapters
from interop._core import borrowing
from interop.adapters.base import Adapter

class Stream:
    pass

class Library(Adapter):
    library = "later"
    streams_stay_the_same = True
    def stream_handle(self, stream):
        return id(stream)

adapters.by_type[Stream] = (Library(),)
stream = Stream()
interop.as_stream(stream)
borrowing.borrowed_by_id[id(stream)]._natives = {"kept": stream}  # so that it is freed with that dict
del stream
"""


@pytest.mark.parametrize("native", ["", "0"])
def test_a_stream_that_is_freed_at_the_exit_of_the_interpreter_is_forgotten_in_silence(native):
    environment = {**os.environ, "PYTHONPATH": str(Path(interop.__file__).parents[1]), "INTEROP_NATIVE": native}
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
