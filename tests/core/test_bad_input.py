"""A wrong argument is refused at once, by an error that names it. No test here needs a GPU or a driver."""

import copy
import ctypes
import gc
import mmap
import pickle
import re
import sys
import tomllib
import types
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

import interop
from interop import Event, ExternalStream, adapters, as_event, as_stream, current_stream, new_stream, use
from interop._core.polling import check_timeout, poll
from interop._core.switching import stream_in_use
from interop._show.text import described
from interop.adapters.base import Adapter
from interop.adapters.table import TABLE
from interop.errors import (
    AdapterError,
    InteropError,
    InvalidEventError,
    InvalidStreamError,
    LibraryNotFoundError,
    NoDeviceError,
    NotSupportedError,
    UnrecordedEventError,
)

says = re.escape


def table(rows):
    """Parameters of a test, from a mapping of ids to arguments."""
    return [pytest.param(*arguments, id=name) for name, arguments in rows.items()]


# -- handles --------------------------------------------------------------------------------------------------------

NOT_HANDLES = {
    "bool": (True, "got True of type bool"),
    "float": (1.5, "got 1.5 of type float"),
    "negative": (-1, "<= handle < 2**64; got -1"),
    "too large": (2**64, f"<= handle < 2**64; got {2**64}"),
    "str": ("0x7f00", "got '0x7f00' of type str"),
    "bytes": (bytes(8), "of type bytes"),
    "None": (None, "got None of type NoneType"),
    "object": (..., "got Ellipsis of type ellipsis"),
    "tuple": ((0, 1), "got (0, 1) of type tuple"),
}
# No process has memory at these addresses: in the first page, above the user's half, and at the very end.
NO_MEMORY = [3, 7, 8, 4095, 2**47, 2**63, 2**64 - 1]


@pytest.fixture
def pages():
    """The addresses of a page without access, of an unmapped page, and of the last bytes of a readable page."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size, no_access = mmap.PAGESIZE, 0
    start = libc.mmap(None, 3 * size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert libc.mprotect(start + size, size, no_access) == 0
    assert libc.munmap(start + 2 * size, size) == 0
    yield {"no access": start + size, "unmapped": start + 2 * size, "readable": start + size - 8}
    libc.munmap(start, 2 * size)


@pytest.mark.parametrize(("value", "text"), table(NOT_HANDLES))
class TestAWrongHandleIsRefused:
    @pytest.mark.parametrize("borrow", [as_stream, use], ids=lambda function: function.__name__)
    def test_by_as_stream_and_use(self, borrow, value, text):
        with pytest.raises(InvalidStreamError, match=says(text)):
            borrow(value)

    def test_by_external_stream(self, value, text):
        with pytest.raises(InvalidStreamError, match=says(text)):
            ExternalStream(value)

    def test_by_wait_stream(self, value, text, address):
        with pytest.raises(InvalidStreamError, match=says(text)):
            as_stream(address).wait_stream(address + 64, value)

    def test_by_as_event(self, value, text):
        with pytest.raises(InvalidEventError, match=says(text)):
            as_event(value)

    def test_by_wait_event(self, value, text, address):
        with pytest.raises(InvalidEventError, match=says(text)):
            as_stream(address).wait_event(value)

    def test_by_elapsed_time(self, value, text):
        with pytest.raises(InvalidEventError, match=says(text)):
            Event(enable_timing=True).elapsed_time(value)


@pytest.mark.parametrize("address", NO_MEMORY, ids=hex)
@pytest.mark.parametrize(("borrow", "error"), [(as_stream, InvalidStreamError), (as_event, InvalidEventError)])
def test_an_address_without_memory_is_refused(borrow, error, address):
    with pytest.raises(error, match=f"no (stream|event) is at {address:#x}"):
        borrow(address)


@pytest.mark.parametrize("page", ["no access", "unmapped"])
@pytest.mark.parametrize(("borrow", "error"), [(as_stream, InvalidStreamError), (as_event, InvalidEventError)])
def test_an_address_that_cannot_be_read_is_refused(borrow, error, pages, page):
    with pytest.raises(error, match=f"no (stream|event) is at {pages[page]:#x}"):
        borrow(pages[page])
    borrow(pages["readable"])


@pytest.mark.parametrize("handle", [0, 1, 2])
def test_the_handles_of_default_streams_are_no_events(handle):
    with pytest.raises(InvalidEventError, match=f"{handle}"):
        as_event(handle)


# -- the protocol, and PyCUDA's handle ------------------------------------------------------------------------------


class Method:
    """Has a ``__cuda_stream__`` that returns what the test says."""

    def __init__(self, stated):
        self.stated = stated

    def __cuda_stream__(self):
        return self.stated


class Attribute:
    """Has a ``__cuda_stream__`` that is the pair itself, not a method."""

    def __init__(self, stated):
        self.__cuda_stream__ = stated


class Handle:
    """Has an int ``handle``, as PyCUDA's streams have."""

    def __init__(self, handle):
        self.handle = handle


class Failing:
    """Has a method ``__cuda_stream__`` that raises."""

    def __cuda_stream__(self):
        message = "the context is gone"
        raise RuntimeError(message)

    fails = property(__cuda_stream__)


class FailingProperty:
    """Has a property ``__cuda_stream__`` that raises."""

    __cuda_stream__ = Failing.fails


class MissingProperty:
    """Has a property ``__cuda_stream__`` that raises AttributeError, as a missing attribute does."""

    @property
    def __cuda_stream__(self):
        return self.context_is_gone


class FailingHandleStream:
    """A stream like PyCUDA's, of a context that is gone."""

    handle = Failing.fails


@pytest.mark.parametrize("cls", [Method, Attribute])
@pytest.mark.parametrize(
    ("stated", "text"),
    table(
        {
            "newer version": ((1, 4096), "version 1"),
            "version is a bool": ((False, 4096), "version False"),
            "version is a str": (("0", 4096), "version '0'"),
            "three parts": ((0, 4096, 0), "must give the pair (0, handle)"),
            "one part": ((0,), "must give the pair (0, handle)"),
            "list": ([0, 4096], "must give the pair (0, handle)"),
            "int": (4096, "must give the pair (0, handle)"),
            "None": (None, "must give the pair (0, handle)"),
            "handle is a float": ((0, 4096.0), "4096.0 of type float"),
            "handle is a bool": ((0, True), "True of type bool"),
            "handle is a str": ((0, "0x1000"), "'0x1000' of type str"),
            "handle is None": ((0, None), "None of type NoneType"),
            "handle is negative": ((0, -1), "got -1"),
            "handle is too large": ((0, 2**64), f"got {2**64}"),
            "handle is no memory": ((0, 4095), "no stream is at 0xfff"),
        }
    ),
)
def test_a_wrong_answer_of_cuda_stream_is_refused(cls, stated, text):
    with pytest.raises(InvalidStreamError, match=says(text)):
        as_stream(cls(stated))


@pytest.mark.parametrize("cls", [Failing, FailingProperty, MissingProperty, FailingHandleStream])
def test_a_cuda_stream_that_raises_is_refused(cls):
    with pytest.raises(InvalidStreamError, match=f"{cls.__name__}.*raised .*context.*is.*gone") as caught:
        as_stream(cls())
    assert isinstance(caught.value.__cause__, RuntimeError | AttributeError)


@pytest.mark.parametrize("handle", [True, 4096.0, "0x1000", None, -1, 2**64, 4095], ids=repr)
def test_a_wrong_handle_attribute_is_refused(handle):
    with pytest.raises(InvalidStreamError):
        as_stream(Handle(handle))


# -- objects that are no streams or events --------------------------------------------------------------------------


class ClassAttribute:
    """A class with both attributes. The class itself is no stream, and no event."""

    __cuda_stream__ = (0, 1)
    handle = 1


class NoRepr:
    """Has a ``__repr__`` that raises, as a cuda.core.Stream has without a driver."""

    def __repr__(self):
        message = "no repr"
        raise RuntimeError(message)


class PyCudaEvent(Handle):
    """Has an int ``handle`` like a stream of PyCUDA, but is called Event, as PyCUDA's events are."""


PyCudaEvent.__name__ = PyCudaEvent.__qualname__ = "Event"


def cuda_core_stream(address):
    from cuda.core import Stream

    return Stream.from_handle(address)


def closed_cuda_core_stream(address):
    stream = cuda_core_stream(address)
    stream.close()
    return stream


def cuda_core_buffer(address):
    from cuda.core import Buffer

    return Buffer.from_handle(address, 64)


def numba_stream(address):
    from cuda.bindings import driver
    from numba.cuda.cudadrv.driver import Stream

    return Stream(driver.CUstream(address))


def numba_event(address):
    from cuda.bindings import driver
    from numba.cuda.cudadrv.driver import Event

    return Event(driver.CUevent(address))


def cupy_stream(address):
    import cupy

    return cupy.cuda.Stream.from_external(as_stream(address))


def torch_cpu_stream(_address):
    import torch

    return torch.Stream(device="cpu")


def torch_tensor(_address):
    import torch

    return torch.zeros(1)


def numpy_array(_address):
    import numpy as np

    return np.zeros(1)


class Proxy:
    """Stands for another object, as werkzeug's LocalProxy and Django's LazyObject do."""

    def __init__(self, find):
        object.__setattr__(self, "find", find)

    __class__ = property(lambda self: type(object.__getattribute__(self, "find")()))
    __dict__ = property(lambda self: object.__getattribute__(self, "find")().__dict__)

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "find")(), name)


def nothing():
    message = "working outside of a request"
    raise RuntimeError(message)


class Unequal(type):
    """Makes classes that cannot be hashed."""

    __hash__ = None

    def __eq__(cls, other):
        return cls is other


class UnhashableClass(metaclass=Unequal):
    pass


class UnhashableClassStating(metaclass=Unequal):
    def __init__(self, address):
        self.address = address

    def __cuda_stream__(self):
        return (0, self.address)


class NoDict:
    __dict__ = None


class OddDict:
    __dict__ = property(lambda _: nothing())


class DictOfAnotherKind:
    __dict__ = types.MappingProxyType({"__cuda_stream__": (0, 4096)})


class OddModule:
    """A class whose ``__module__`` is no name."""


OddModule.__module__ = 5
cudaStream_t = type("cudaStream_t", (), {"__module__": None})  # noqa: N816  (CUDA's name)
CUevent = type("CUevent", (), {"__module__": 5})

STAND_INS = {
    "proxy of a stream of ours": (lambda address: Proxy(lambda: as_stream(address)), "stand-in.*ExternalStream"),
    "proxy of an event of ours": (lambda _: Proxy(Event), r"stand-in.*interop\.event\.Event"),
    "proxy of PyCUDA's stream": (lambda address: Proxy(lambda: Handle(address)), "stand-in.*Handle"),
    "proxy of an attribute": (lambda address: Proxy(lambda: Attribute((0, address))), "stand-in.*Attribute"),
    "proxy of nothing": (lambda _: Proxy(nothing), "RuntimeError: working outside of a request"),
    "mock of a stream": (lambda _: Mock(spec=ExternalStream), "stand-in.*ExternalStream"),
    "mock of an event": (lambda _: Mock(spec=Event), r"stand-in.*interop\.event\.Event"),
    "mock": (lambda _: Mock(), "Mock"),
    "mock with everything": (lambda _: MagicMock(), "MagicMock"),
    "class that cannot be hashed": (lambda _: UnhashableClass(), "UnhashableClass"),
    "no __dict__": (lambda _: NoDict(), "NoDict"),
    "__dict__ that raises": (lambda _: OddDict(), "OddDict"),
    "__dict__ of another kind": (lambda _: DictOfAnotherKind(), "DictOfAnotherKind"),
    "odd module": (lambda _: OddModule(), "OddModule"),
    "binding of no module": (lambda _: cudaStream_t(), "cudaStream_t"),
    "event binding of an odd module": (lambda _: CUevent(), "CUevent"),
    "huge int": (lambda _: 10**5000, "an int of 16610 bits"),
    "huge negative int": (lambda _: -(10**5000), "an int of 16610 bits"),
    "list of a huge int": (lambda _: [10**5000], "list"),
}


@pytest.mark.parametrize(("borrow", "error"), [(as_stream, InvalidStreamError), (as_event, InvalidEventError)])
@pytest.mark.parametrize(("make", "text"), table(STAND_INS))
def test_a_stand_in_is_neither_a_stream_nor_an_event(borrow, error, make, text, address):
    with pytest.raises(error, match=text):
        borrow(make(address))


@pytest.mark.parametrize(("make", "text"), table(STAND_INS))
def test_a_stand_in_cannot_be_waited_for(make, text, address):
    if not (text.startswith("an int") or "Event" in text):
        with pytest.raises(InvalidStreamError, match=text):
            as_stream(address).wait_stream(make(address))


def test_the_class_of_a_stream_need_not_be_hashable(address):
    for _ in range(2):
        assert as_stream(UnhashableClassStating(address)).cuda_stream == address


def test_equality_calls_no_code_of_a_proxy(address):
    assert as_stream(address) != Proxy(nothing)
    assert as_stream(address) != Mock(spec=ExternalStream)


# -- objects whose own methods raise ---------------------------------------------------------------------------------

METHODS = ["__eq__", "__hash__", "__repr__", "__str__", "__format__", "__bool__", "__len__", "__iter__", "__index__"]
BASES = {"object": object, "str": str, "int": int, "tuple": tuple, "dict": dict}


def fails(*_):
    message = "code of the input has run"
    raise ZeroDivisionError(message)


def raising(name, base=object, **methods):
    made = type(f"Raising_{name}", (base,), methods)
    return made("no library") if base is str else made(-5) if base is int else made()


class UnhashableMeta(type):
    __hash__ = fails


RAISING = {
    "class": raising("class", __class__=property(fails)),
    "getattr": raising("getattr", __getattr__=fails),
    "getattribute": raising("getattribute", __getattribute__=fails),
    "of a class that raises": UnhashableMeta("Raising_meta", (), {})(),
    **{name: raising(name, base, **dict.fromkeys(METHODS, fails)) for name, base in BASES.items()},
    **{
        f"{name} {method}": raising(name, base, **{method: fails}) for name, base in BASES.items() for method in METHODS
    },
}


class Array:
    """Memory of the host; it states a stream."""

    def __init__(self, stream=None):
        self.interface = {"version": 3, "shape": (4,), "typestr": "<f8", "data": (4096, False), "stream": stream}

    @property
    def __cuda_array_interface__(self):
        return self.interface


GIVE = {
    "as_stream": lambda _, bad: as_stream(bad),
    "as_event": lambda _, bad: as_event(bad),
    "use": lambda _, bad: use(bad).__enter__(),
    "use of a library": use,
    "to": lambda stream, bad: stream.to(bad),
    "register a name": lambda _, bad: interop.register(bad, Whatever()),
    "register an adapter": lambda _, bad: interop.register("whatever", bad),
    "current_stream": lambda _, bad: current_stream(bad),
    "current_handle": lambda _, bad: interop.current_handle(bad),
    "wait_stream": lambda stream, bad: stream.wait_stream(bad),
    "wait_event": lambda stream, bad: stream.wait_event(bad),
    "hold": lambda _, bad: interop.hold(bad, 1),
    "handoff of it": lambda stream, bad: interop.handoff(bad, stream, producer=stream),
    "handoff to it": lambda stream, bad: interop.handoff(Array(), bad, producer=stream),
    "handoff from it": lambda stream, bad: interop.handoff(Array(), stream, producer=bad),
    "handoff into it": lambda stream, bad: interop.handoff(Array(), stream, producer=stream, into=bad),
    "handoff read-only": lambda stream, bad: interop.handoff(Array(), stream, producer=stream, read_only=bad),
    "handoff of what states it": lambda stream, bad: interop.handoff(Array(bad), stream),
}


@pytest.mark.parametrize("give", GIVE.values(), ids=GIVE)
@pytest.mark.usefixtures("registry")
def test_an_input_whose_own_code_raises_is_named_and_not_printed(give, monkeypatch):
    monkeypatch.setattr("interop._cuda.memory.pointer_place", lambda *_: (2, 0))
    with interop.sim.simulate():
        stream = new_stream()
        for name, bad in RAISING.items():
            with pytest.raises((InteropError, ValueError), match=r"Raising_|-5|no library") as caught:
                give(stream, bad)
            assert type(caught.value).__module__ in ("interop.errors", "builtins"), name


class Lying(int):
    """An int whose methods all say that it is another number."""

    __int__ = __index__ = __hash__ = lambda _: 4096
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = lambda *_: True


@pytest.mark.parametrize("value", [-1, 3, 2**64])
@pytest.mark.parametrize(
    ("use", "error"),
    [
        (as_stream, InvalidStreamError),
        (as_event, InvalidEventError),
        (lambda handle: as_stream(Method((0, handle))), InvalidStreamError),
        (lambda handle: as_stream(Handle(handle)), InvalidStreamError),
    ],
)
def test_the_value_of_an_int_does_not_depend_on_its_methods(use, error, value, address):
    with pytest.raises(error, match=f"{value:#x}|{value}"):
        use(Lying(value))
    right = use(Lying(address))
    handle = right.cuda_stream if error is InvalidStreamError else right.cuda_event
    assert type(handle) is int
    assert int.__index__(handle) == address


def test_the_value_of_an_adapters_int_does_not_depend_on_its_methods(acme, address):
    assert type(as_stream(acme.Stream(Lying(address))).cuda_stream) is int
    assert type(as_event(acme.Event(Lying(address))).cuda_event) is int
    with pytest.raises(InvalidStreamError, match="0x3"):
        as_stream(acme.Stream(Lying(3)))
    with pytest.raises(InvalidEventError, match="0x3"):
        as_event(acme.Event(Lying(3)))
    with pytest.raises(AdapterError, match="never 0"):
        as_stream(acme.Stream(Lying(0)))


def binding(module, name):
    def make(address):
        import importlib

        return getattr(importlib.import_module(f"cuda.bindings.{module}"), name)(address)

    return make


def of(rows):
    return [
        pytest.param(make, id=name, marks=[pytest.mark.needs(each) for each in library.split()])
        for name, (make, library) in rows.items()
    ]


@pytest.mark.parametrize(
    "make",
    of(
        {
            "cuda.core closed stream": (closed_cuda_core_stream, "cuda.core"),
            "cuda.core buffer": (cuda_core_buffer, "cuda.core"),
            "numba event": (numba_event, "numba"),
            "torch CPU stream": (torch_cpu_stream, "torch"),
            "torch tensor": (torch_tensor, "torch"),
            "numpy array": (numpy_array, "numpy"),
            "cudaEvent_t": (binding("runtime", "cudaEvent_t"), ""),
            "CUevent": (binding("driver", "CUevent"), ""),
            "PyCUDA event": (PyCudaEvent, ""),
            "event of ours": (as_event, ""),
            "printing fails": (lambda _: NoRepr(), ""),
        }
    ),
)
def test_an_object_that_is_no_stream_is_refused(make, address):
    obj = make(address)
    with pytest.raises(InvalidStreamError, match=type(obj).__name__):
        as_stream(obj)


@pytest.mark.parametrize(
    "make",
    of(
        {
            "cuda.core stream": (cuda_core_stream, "cuda.core"),
            "numba stream": (numba_stream, "numba"),
            "cupy stream": (cupy_stream, "cupy"),
            "torch CPU stream": (torch_cpu_stream, "torch"),
            "numpy array": (numpy_array, "numpy"),
            "cudaStream_t": (binding("runtime", "cudaStream_t"), ""),
            "CUstream": (binding("driver", "CUstream"), ""),
            "stream of ours": (as_stream, ""),
            "printing fails": (lambda _: NoRepr(), ""),
        }
    ),
)
def test_an_object_that_is_no_event_is_refused(make, address):
    obj = make(address)
    with pytest.raises(InvalidEventError, match=type(obj).__name__):
        as_event(obj)


@pytest.mark.parametrize("cls", [Method, ClassAttribute, Handle, ExternalStream, Event, int])
@pytest.mark.parametrize(("borrow", "error"), [(as_stream, InvalidStreamError), (as_event, InvalidEventError)])
def test_a_class_instead_of_an_instance_is_refused(borrow, error, cls):
    with pytest.raises(error, match=f"got <class '.*{cls.__name__}'>"):
        borrow(cls)


# -- devices --------------------------------------------------------------------------------------------------------

USES_OF_A_DEVICE = {
    "as_stream": as_stream,
    "as_stream of a default": lambda _, device: as_stream(1, device),
    "as_stream of ours": lambda address, device: as_stream(as_stream(address), device),
    "ExternalStream": lambda address, device: ExternalStream(address, device=device),
    "new_stream": lambda _, device: new_stream(device),
    "Event": lambda _, device: Event(device=device),
    "Event.from_ipc_handle": lambda _, device: Event.from_ipc_handle(device, bytes(64)),
}


@pytest.mark.parametrize("device", [-1, True, "cpu:0", 1.0, 2**31, 10**5000], ids=described)
@pytest.mark.parametrize("function", table({name: (function,) for name, function in USES_OF_A_DEVICE.items()}))
def test_a_wrong_device_is_refused(function, device, address):
    with pytest.raises(InteropError, match=f"a device is its ordinal.*got {says(described(device))}"):
        function(address, device)


@pytest.mark.parametrize("device", [-1, True, "cpu:0", 1.0, 2**31, 10**5000], ids=described)
def test_a_wrong_device_does_not_raise_no_device_error(device, address):
    # A program that falls back to the CPU or the simulator does so by `except NoDeviceError:`. A typo must not do that.
    with pytest.raises(ValueError, match=says(described(device))):
        as_stream(address, device)


# -- libraries ------------------------------------------------------------------------------------------------------


def use_of(library):
    return use(1, library)


by_name = pytest.mark.parametrize("ask", [current_stream, interop.current_handle, use_of, adapters.adapter_named])


@by_name
@pytest.mark.parametrize(
    ("library", "text"),
    table(
        {
            "misspelt": ("cuppy", "'cuppy'; did you mean 'cupy'?"),
            "other case": ("PyTorch", "'PyTorch'; did you mean 'torch'?"),
            "part": ("torch.cuda", "'torch.cuda'; did you mean 'torch'?"),
            "unlike any": ("zzz", "'zzz'; known: "),
            "empty": ("", "''"),
            "no str": (7, "named by its import path, such as 'cupy' or 'cuda.core'; got 7"),
            "None": (None, "named by its import path, such as 'cupy' or 'cuda.core'; got None"),
        }
    ),
)
def test_an_unknown_library_is_refused(ask, library, text):
    with pytest.raises(LibraryNotFoundError, match=says(text)):
        ask(library)


@by_name
@pytest.mark.parametrize("name", [10**5000, NoRepr()], ids=["a long int", "no repr"])
def test_a_name_that_cannot_be_printed_is_refused(ask, name):
    with pytest.raises(LibraryNotFoundError, match="named by its import path"):
        ask(name)
    with pytest.raises(AdapterError, match="registered for a library's import path"):
        interop.register(name, Adapter())
    with pytest.raises(AdapterError, match="must be an instance"):
        interop.register("nowhere", name)


@by_name
@pytest.mark.parametrize("library", TABLE)
@pytest.mark.usefixtures("registry")
def test_a_library_that_is_not_installed_says_how_to_install_it(ask, library, monkeypatch):
    with interop.sim.simulate():  # which imports cuda.bindings first
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(LibraryNotFoundError, match=says(f"{library} is not installed: pip install ")) as caught:
            ask(library)
    assert caught.value.name == library


@pytest.mark.parametrize("library", TABLE)
def test_how_to_install_names_the_packages_of_the_extra(library):
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extra = pyproject["project"]["optional-dependencies"][re.sub("[._]", "-", library)]
    packages = [name if "<" in name else name.partition(">=")[0] for name in extra]
    quoted = [f'"{name}"' if set(name) & set("[<") else name for name in packages]
    assert adapters.how_to_install(library, cuda="13") == f"pip install {' '.join(quoted)}"
    assert "13" not in adapters.how_to_install(library, cuda="12")


@pytest.mark.usefixtures("registry")
def test_no_extra_is_named_for_a_library_without_one():
    class Absent(Adapter):
        library = "absent_streams"

    interop.register("absent_streams", Absent())
    with pytest.raises(LibraryNotFoundError, match=r"absent_streams is not installed$"):
        current_stream("absent_streams")


@by_name
@pytest.mark.parametrize(
    ("source", "error", "text"),
    table(
        {
            "shared object": ("raise ImportError('libacme.so.3: cannot open')", ImportError, "libacme.so.3"),
            "dependency": ("import not_there_either", ModuleNotFoundError, "No module named 'not_there_either'"),
            "anything": ("raise OSError('driver mismatch')", OSError, "driver mismatch"),
        }
    ),
)
@pytest.mark.usefixtures("registry")
def test_a_library_that_cannot_be_imported_raises_its_own_error(ask, source, error, text, tmp_path, monkeypatch):
    (tmp_path / "broken_streams.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    interop.register("broken_streams", type("Broken", (Adapter,), {"library": "broken_streams"})())
    with pytest.raises(error, match=text) as caught:
        ask("broken_streams")
    assert type(caught.value) is error
    assert "broken_streams" not in sys.modules


@pytest.mark.parametrize("library", ["jax", "warp"])
@pytest.mark.usefixtures("registry")
def test_a_module_that_only_has_the_name_of_a_library_is_ignored(library, monkeypatch):
    module = types.ModuleType(library)
    monkeypatch.setitem(sys.modules, library, module)
    monkeypatch.delitem(sys.modules, TABLE[library].adapter, raising=False)
    theirs = type("Anything", (), {"__module__": library})()
    with pytest.raises(InvalidStreamError, match="Anything"):
        as_stream(theirs)
    assert library not in [adapter.library for adapter in adapters.with_current_stream(simulated=False)]


@pytest.mark.parametrize("library", ["cuda.bindings", "cuda.core", "jax", "numba", "numba_cuda_mlir", "rmm"])
@pytest.mark.usefixtures("registry")
def test_a_library_without_a_current_stream_is_refused(library, monkeypatch):
    if library == "jax":
        monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
    else:
        pytest.importorskip(library)
    for ask in (current_stream, use_of):
        with pytest.raises(NotSupportedError, match=f"{library} has no current stream; (pass|hand)"):
            ask(library)


# -- adapters -------------------------------------------------------------------------------------------------------


class Whatever(Adapter):
    library = "whatever"


@pytest.mark.parametrize(
    ("library", "adapter", "text"),
    table(
        {
            "built in": ("cupy", Whatever(), "'cupy' has an adapter already"),
            "registered": ("acme", Whatever(), "'acme' has an adapter already"),
            "class": ("whatever", Whatever, "must be an instance of a subclass of Adapter"),
            "other object": ("whatever", object(), "must be an instance of a subclass of Adapter"),
            "None": ("whatever", None, "must be an instance of a subclass of Adapter"),
            "name is no str": (7, Whatever(), "7"),
            "name is empty": ("", Whatever(), "''"),
            "name is another": ("other", Whatever(), "'other'.*'whatever'|'whatever'.*'other'"),
        }
    ),
)
def test_register_refuses_wrong_arguments(library, adapter, text, acme):
    before = adapters.known(), dict(adapters._registered)
    with pytest.raises(AdapterError, match=text):
        interop.register(library, adapter)
    assert (adapters.known(), adapters._registered) == before


@pytest.mark.parametrize("handle", [0, "0x1000", True, 4096.0], ids=repr)
class TestAnAdapterThatReturns:
    def test_a_wrong_stream_handle_is_an_error(self, acme, handle):
        with pytest.raises(AdapterError, match=f"'acme' gave {handle!r} of type .* for .*Stream"):
            as_stream(acme.Stream(handle))

    def test_a_wrong_event_handle_is_an_error(self, acme, handle):
        if handle == 0:
            return  # the CUDA event was not created yet
        with pytest.raises(AdapterError, match=f"'acme' gave {handle!r} of type .* for .*Event"):
            as_event(acme.Event(handle))


class BareAdapter(Adapter):
    library = "bare"

    def stream_handle(self, stream):
        return stream.handle

    def event_handle(self, _):
        return 0

    def current_stream(self):
        return None


def test_a_method_that_an_adapter_lacks_is_named(monkeypatch, address):
    bare = types.ModuleType("bare")
    cls = type("Stream", (), {"__module__": "bare", "handle": address})
    monkeypatch.setitem(sys.modules, "bare", bare)
    monkeypatch.setitem(adapters._registered, "bare", BareAdapter())
    adapters._candidates.cache_clear()
    with interop.sim.simulate():
        monkeypatch.setattr(BareAdapter, "simulated", True)
        stream = new_stream()
        for call, method in (
            (lambda: stream.to("bare"), "make_stream"),
            (lambda: use(stream, "bare").__enter__(), "make_stream"),
            (lambda: use(stream).__enter__(), "make_stream"),
        ):
            with pytest.raises(NotSupportedError, match=rf"with bare: its adapter, BareAdapter, has no {method}\(\)"):
                call()
        monkeypatch.setattr(BareAdapter, "make_stream", lambda *_: cls())
        with (
            pytest.raises(NotSupportedError, match=r"with bare: its adapter, BareAdapter, has no (enter|leave)\(\)"),
            use(stream),
        ):
            pass
        event = cls()
        with pytest.raises(NotSupportedError, match=r"with bare: its adapter, BareAdapter, has no record\(\)"):
            stream.record_event(event)
    adapters.by_type.pop(cls, None)


@pytest.mark.parametrize("handle", [None, -1, 2**64, 4095], ids=repr)
def test_an_adapters_address_without_memory_is_refused(acme, handle):
    with pytest.raises(InvalidStreamError, match=f"{handle:#x}|{handle}" if handle else "Stream"):
        as_stream(acme.Stream(handle))
    with pytest.raises(InvalidEventError, match=f"{handle:#x}|{handle}" if handle else "Event"):
        as_event(acme.Event(handle))


# -- events ---------------------------------------------------------------------------------------------------------


def test_an_interprocess_event_cannot_have_timing():
    with pytest.raises(InvalidEventError, match="an interprocess event cannot have timing"):
        Event(enable_timing=True, interprocess=True)


@pytest.mark.filterwarnings("error")
def test_an_event_with_an_unknown_argument_is_refused_cleanly(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: unraisable.append(str(report.exc_value)))
    with pytest.raises(TypeError, match="external"):
        Event(external=True)
    gc.collect()
    assert unraisable == []


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda function: function.__name__)
def test_an_event_cannot_be_copied_or_pickled(again):
    # A copy would destroy the same CUDA event again.
    message = ""
    try:
        again(Event())
    except TypeError as error:
        message = str(error)
    gc.collect()  # an unfinished copy is destroyed in this test, not later
    assert "Event" in message


def test_a_stream_cannot_be_copied_or_pickled(address):
    with pytest.raises(TypeError, match="ExternalStream"):
        pickle.dumps(as_stream(address))


@pytest.mark.parametrize("verb", ["query", "synchronize"])
def test_an_unrecorded_event_is_refused(verb):
    with pytest.raises(UnrecordedEventError, match=f"cannot {verb} .*never recorded.*Record it first"):
        getattr(Event(), verb)()


@pytest.mark.parametrize("operation", [Event.record, Event.wait])
def test_an_event_needs_a_stream(operation):
    with pytest.raises(InvalidStreamError, match=r"no stream was given, and no .* is around the call"):
        operation(Event())


def test_an_event_without_timing_measures_nothing(address):
    with pytest.raises(NotSupportedError, match=r"has no timing: make it with Event\(enable_timing=True\)"):
        Event().elapsed_time(address)


def test_only_an_interprocess_event_has_an_ipc_handle():
    with pytest.raises(NotSupportedError, match=r"make it with Event\(interprocess=True\)"):
        Event().ipc_handle()


@pytest.mark.parametrize(
    ("handle", "text"),
    table(
        {
            "short": (bytes(63), "64 bytes.*63"),
            "long": (bytes(65), "64 bytes.*65"),
            "str": ("x" * 64, "64 bytes.*str"),
            "None": (None, "64 bytes.*None"),
        }
    ),
)
def test_a_wrong_ipc_handle_is_refused(handle, text):
    with pytest.raises(InvalidEventError, match=text):
        Event.from_ipc_handle(0, handle)


# -- timeouts -------------------------------------------------------------------------------------------------------

TIMEOUTS = [-1, -0.5, float("nan"), float("-inf"), True, "1"]


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=repr)
def test_a_wrong_timeout_is_refused(timeout):
    with pytest.raises(ValueError, match=f"timeout is a number of seconds.*got {timeout!r}"):
        check_timeout(timeout)


@pytest.mark.needs("no_gpu")  # the address is no stream
@pytest.mark.parametrize("timeout", TIMEOUTS, ids=repr)
@pytest.mark.parametrize("borrow", [as_stream, as_event], ids=lambda function: function.__name__)
def test_the_timeout_is_checked_before_cuda_is_called(borrow, timeout, address):
    with pytest.raises(ValueError, match=f"timeout is a number of seconds.*got {timeout!r}"):
        borrow(address).synchronize(timeout=timeout)


@pytest.mark.parametrize("timeout", [10**5000, float("inf")], ids=described)
def test_a_timeout_may_be_longer_than_the_clock_counts(timeout):
    answers = iter([False, True])
    check_timeout(timeout)
    poll(lambda: next(answers), timeout, "the stream")


@pytest.mark.parametrize("timeout", [0, 0.001], ids=repr)
def test_an_expired_timeout_raises(timeout):
    with pytest.raises(TimeoutError, match=f"it' was not done after {timeout} s; its work goes on"):
        poll(lambda: False, timeout, "it")


# -- no driver or device --------------------------------------------------------------------------------------------

OPERATIONS = {
    "stream.device": lambda stream: stream.device,
    "stream.priority": lambda stream: stream.priority,
    "stream.stream_id": lambda stream: stream.stream_id,
    "stream.query": ExternalStream.query,
    "stream.synchronize": ExternalStream.synchronize,
    "stream.synchronize with a timeout": lambda stream: stream.synchronize(timeout=1),
    "stream.record_event": ExternalStream.record_event,
    "stream.record_event of ours": lambda stream: stream.record_event(Event()),
    "stream.wait_event": lambda stream: stream.wait_event(stream.cuda_stream),
    "stream.wait_stream": lambda stream: stream.wait_stream(stream.cuda_stream + 64),
    "stream.wait_stream of a default": lambda stream: stream.wait_stream(1),
    "stream.is_capturing": ExternalStream.is_capturing,
    "stream.to": lambda stream: stream.to("cupy"),
    "with stream": ExternalStream.__enter__,
    "default stream": lambda _: as_stream(1).query(),
    "as_stream on a device": lambda stream: as_stream(stream.cuda_stream, 0),
    "as_stream of a default of a device": lambda _: as_stream(2, 0),
    "new_stream": lambda _: new_stream(),
    "new_stream on a device": lambda _: new_stream(0),
    "use": lambda stream: use(stream).__enter__(),
    "event.record": lambda stream: Event().record(stream),
    "event.wait": lambda stream: as_event(stream.cuda_stream).wait(stream),
    "event.query": lambda stream: as_event(stream.cuda_stream).query(),
    "event.synchronize": lambda stream: as_event(stream.cuda_stream).synchronize(),
    "event.elapsed_time": lambda stream: as_event(stream.cuda_stream).elapsed_time(stream.cuda_stream),
    "event.cuda_event": lambda _: Event().cuda_event,
    "event.ipc_handle": lambda _: Event(interprocess=True).ipc_handle(),
    "Event.from_ipc_handle": lambda _: Event.from_ipc_handle(0, bytes(64)),
    "current_stream of cupy": lambda _: current_stream("cupy"),
    "current_stream of torch": lambda _: current_stream("torch"),
}


@pytest.mark.needs("no_gpu")
class TestWithoutADevice:
    @pytest.mark.parametrize(
        "operation",
        [
            pytest.param(
                operation,
                id=name,
                marks=pytest.mark.needs(name.split()[-1]) if name.startswith("current_stream") else (),
            )
            for name, operation in OPERATIONS.items()
        ],
    )
    def test_every_operation_says_why_it_failed_and_what_to_do(self, operation, address):
        stream = as_stream(address)
        with pytest.raises(NoDeviceError, match=r"cudaError\w+ \(\d+\): \w+.*interop\.sim"):
            operation(stream)
        assert stream == as_stream(address)
        with pytest.raises(InvalidStreamError):
            stream_in_use()

    def test_a_wait_for_nothing_or_for_itself_succeeds(self, address):
        as_stream(address).wait_stream()
        as_stream(address).wait_stream(address, as_stream(address))

    @pytest.mark.parametrize("visible", ["", "7", None], ids=repr)
    def test_the_error_names_cuda_visible_devices(self, visible, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(NoDeviceError) as caught:
            new_stream()
        assert (f"CUDA_VISIBLE_DEVICES is set to {visible!r}" in str(caught.value)) == (visible is not None)


def test_the_code_in_the_error_message_works(python):
    code = """
import interop
from interop._cuda import WAY_OUT
line = WAY_OUT.split("`")[1]
names = {"interop": interop}
exec(line + " pass", names)
print('"done"')
"""
    assert python(code) == "done"
