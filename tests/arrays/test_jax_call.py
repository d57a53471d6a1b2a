"""What a function of jax_call is given, on the simulator: a stand-in for JAX calls it, as XLA does."""

import sys
import types
import weakref

import numpy as np
import pytest

import interop
from interop import sim
from interop._core.switching import streams_in_use
from interop.adapters.base import Adapter, Takes
from interop.errors import LibraryNotFoundError, NotSupportedError


class Buffer:
    """A buffer of XLA, over NumPy's memory."""

    def __init__(self, values, *, writeable):
        self.values = values
        self.writeable = writeable

    @property
    def __cuda_array_interface__(self):
        said = self.values.__array_interface__
        data = (said["data"][0], not self.writeable)
        return {"shape": said["shape"], "typestr": said["typestr"], "data": data, "version": 2}


class OnTheCpu:
    @property
    def stream(self):
        message = "UNIMPLEMENTED: XLA FFI GPU context is not available"
        raise RuntimeError(message)


def tree_map(function, tree):
    if isinstance(tree, dict):
        return {name: tree_map(function, part) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, part) for part in tree)
    return function(tree)


class Array:
    """An array of the invented library, over memory that *holder* may keep."""

    def __init__(self, tensor, holder):
        self.tensor = tensor
        self.holder = holder


class Library(Adapter):
    library = "standin"
    simulated = True
    takes = Takes(dimensions=(1, 2))

    def stream_handle(self, stream):  # noqa: ARG002
        return None

    def make_array(self, tensor, holder):
        return Array(tensor, holder)


@pytest.fixture
def jax(monkeypatch, add_library):
    """A stand-in for JAX, whose XLA has one stream; ``compiled`` has the callbacks and options that it was given."""
    add_library(Library())
    module = types.ModuleType("jax")
    module.compiled = []
    module.tree = types.SimpleNamespace(map=tree_map)

    def buffer_callback(callback, result_shapes, **options):
        module.compiled.append((callback, options))

        def call(*arrays, **named):
            out = tree_map(lambda shape: Buffer(np.zeros(shape), writeable=True), result_shapes)
            arrays, named = tree_map(lambda values: Buffer(values, writeable=False), (arrays, named))
            assert callback(module.context, out, *arrays, **named) is None

        return call

    callbacks = types.ModuleType("jax.experimental.buffer_callback")
    callbacks.buffer_callback = buffer_callback
    monkeypatch.setitem(sys.modules, "jax", module)
    monkeypatch.setitem(sys.modules, "jax.experimental", types.ModuleType("jax.experimental"))
    monkeypatch.setitem(sys.modules, "jax.experimental.buffer_callback", callbacks)
    with sim.simulate():
        module.stream = interop.new_stream()
        module.context = types.SimpleNamespace(stream=module.stream.cuda_stream)
        yield module


def test_the_function_gets_the_stream_in_use_and_the_arrays_of_the_library(jax):
    given = []

    def function(stream, out, x, parts, *, scale):
        given.extend([stream, streams_in_use()[0], out, x, parts, scale])

    values = np.arange(4.0)
    interop.jax_call(function, {"sum": 4}, into="standin")(values, [values], scale=values)
    stream, in_use, out, x, parts, scale = given
    assert stream == in_use == jax.stream
    assert streams_in_use() == []
    assert [*out] == ["sum"]
    arrays = [out["sum"], x, *parts, scale]
    assert all(type(array) is Array for array in arrays)
    assert [array.tensor.read_only for array in arrays] == [False, True, True, True]
    assert (x.tensor.address, x.tensor.shape, x.tensor.strides) == (values.ctypes.data, (4,), None)
    assert x.tensor.device_id == jax.stream.device


def test_nothing_of_a_call_is_kept(jax):
    alive = []

    def function(_, out, x):
        alive.extend([weakref.ref(out), weakref.ref(x)])

    interop.jax_call(function, 4, into="standin")(np.arange(4.0))
    assert [one() for one in alive] == [None, None]


def test_an_error_goes_on_to_jax_and_the_stream_is_put_back(jax):
    def function(_, out):
        message = "boom"
        raise LookupError(message)

    with pytest.raises(LookupError, match="boom"):
        interop.jax_call(function, 4, into="standin")()
    assert streams_in_use() == []


def test_a_function_that_returns_its_result_is_told_where_it_goes(jax):
    call = interop.jax_call(lambda _, out, x: x, 4, into="standin")  # noqa: ARG005
    with pytest.raises(TypeError, match=r"into its second argument; got .*Array"):
        call(np.arange(4.0))


def test_a_computation_on_the_cpu_is_refused(jax):
    jax.context = OnTheCpu()
    with pytest.raises(NotSupportedError, match=r"runs on a device that has none.*jax\.pure_callback"):
        interop.jax_call(lambda _, out: None, 4, into="standin")()  # noqa: ARG005


def test_an_array_that_the_library_cannot_take_is_refused(jax):
    with pytest.raises(NotSupportedError, match="standin takes no array of 3 dimensions"):
        interop.jax_call(lambda *_: None, 4, into="standin")(np.zeros((1, 1, 1)))


def test_the_options_are_those_of_jax(jax):
    interop.jax_call(print, 4, into="standin", vmap_method="broadcast_all", command_buffer_compatible=True)
    assert jax.compiled[0][1] == {"vmap_method": "broadcast_all", "command_buffer_compatible": True}


def test_jax_sees_that_two_calls_of_one_function_are_the_same(jax):
    for function in (print, print, sorted):
        interop.jax_call(function, 4, into="standin")
    (first, _), (second, _), (other, _) = jax.compiled
    assert first == second != other
    assert hash(first) == hash(second)


def test_wrong_arguments_are_refused_before_jax_is_asked(jax):
    with pytest.raises(TypeError, match=r"calls its function; got 3"):
        interop.jax_call(3, 4, into="standin")
    with pytest.raises(NotSupportedError, match=r"JAX's own work needs no jax_call"):
        interop.jax_call(print, 4, into="jax")
    with pytest.raises(LibraryNotFoundError, match="knows no library 'nothing'"):
        interop.jax_call(print, 4, into="nothing")
    assert jax.compiled == []


@pytest.mark.usefixtures("registry")
def test_without_jax_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(LibraryNotFoundError, match="jax is not installed: pip install"):
        interop.jax_call(print, 4, into="standin")
