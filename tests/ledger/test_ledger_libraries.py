"""The ledger observes the libraries' real classes. Their calls of CUDA are replaced, so that no GPU is needed."""

import contextlib
import copy
import functools
import importlib
import inspect
import re
import sys
import threading
import types

import numpy as np
import pytest

import interop
from interop import _cuda
from interop._order import watchers
from interop._order.findings import Kind
from interop.errors import NotSupportedError
from interop.ledger import session
from interop.ledger.layout import block
from interop.ledger.ledger import _uncertainty_of
from interop.ledger.libraries import observer
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import OBSERVED, SEEN
from interop.ordering import check
from interop.stream import ExternalStream
from tests.threads import in_thread


class Notes:
    """Stands for a ledger, and keeps the calls that it gets."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **named: self.calls.append((name, *arguments, *named.values()))

    @property
    def names(self):
        return [name for name, *_ in self.calls]


@pytest.fixture
def notes():
    return Notes()


@contextlib.contextmanager
def patched(*makers):
    """Make the patches of all *makers* until the end of the block."""
    patches = Patches()
    try:
        for make in makers:
            make(patches)
        yield
    finally:
        patches.undo()


def observing(library, notes):
    return patched(functools.partial(library.observe, notes))


def everything_of(*owners):
    return {(owner, name): value for owner in owners for name, value in vars(owner).items() if name[:2] != "__"}


def nothing(*_args, **_kwargs):
    return None


# -- PyTorch -----------------------------------------------------------------------------------------------------


@pytest.fixture
def torch(monkeypatch, interop_need):
    """PyTorch on two simulated streams, with host memory in place of device memory."""
    interop_need("torch")
    import torch

    library = importlib.import_module("interop.ledger.libraries.torch")
    with interop.sim.simulate() as gpu:
        streams = types.SimpleNamespace(
            a=interop.as_stream(gpu.stream("a")), b=interop.as_stream(gpu.stream("b")), now=None
        )
        streams.now = streams.a
        monkeypatch.setattr(library, "on_gpu", lambda tensor: not hasattr(tensor, "host"))
        monkeypatch.setattr(library, "_stream_of", lambda _device: streams.now)
        yield types.SimpleNamespace(torch=torch, library=library, streams=streams)


@contextlib.contextmanager
def operators(torch):
    with check(raises=False) as ledger, torch.library.Operators(ledger):
        yield ledger


def pairs(ledger):
    return [
        (race.earlier.by, race.earlier.kind, race.later.by, race.later.kind, race.uncertainty == "")
        for race in [*ledger.races, *ledger.unknown]
    ]


def test_torch_operators_read_and_write_as_their_schemas_say(torch):
    x, y = torch.torch.zeros(4), torch.torch.zeros(4)
    with operators(torch) as ledger:
        x.add_(1)
        torch.streams.now = torch.streams.b
        y.copy_(x)
    assert pairs(ledger) == [("PyTorch's aten::add_", Kind.WRITE, "PyTorch's aten::copy_", Kind.READ, True)]
    assert ledger.races[0].later.where.startswith(__file__)


def test_torch_reads_do_not_conflict_and_views_touch_nothing(torch):
    x, y, z = torch.torch.zeros(4), torch.torch.zeros(4), torch.torch.zeros(4)
    with operators(torch) as ledger:
        y.copy_(x)
        torch.streams.now = torch.streams.b
        z.copy_(x.view(2, 2).view(4))
        x.t()
        torch.torch.empty_like(y)
    assert not pairs(ledger)
    assert ledger.accesses == 4


def test_torch_outputs_are_written(torch):
    x = torch.torch.zeros(4)
    with operators(torch) as ledger:
        y = x + 1
        torch.streams.now = torch.streams.b
        y.sum()
    assert pairs(ledger) == [("PyTorch's aten::add", Kind.WRITE, "PyTorch's aten::sum", Kind.READ, True)]


def test_torch_views_conflict_only_if_they_overlap(torch):
    x = torch.torch.zeros(8)
    with operators(torch) as ledger:
        x[:4].add_(1)
        torch.streams.now = torch.streams.b
        x[4:].add_(1)
        assert not pairs(ledger)
        x[3:5].add_(1)
    assert len(ledger.races) == 1


def test_torch_waits_that_are_seen_order(torch):
    x, y = torch.torch.zeros(4), torch.torch.zeros(4)
    with operators(torch) as ledger:
        x.add_(1)
        assert x.sum().item() == 4.0  # the host has waited for the stream
        torch.streams.now = torch.streams.b
        y.copy_(x)
    assert not pairs(ledger)


@pytest.fixture
def host(torch, monkeypatch):
    """A tensor that counts as one on the host. All others count as tensors on the device."""
    host = torch.torch.zeros(4)
    monkeypatch.setattr(torch.library, "on_gpu", lambda tensor: tensor.data_ptr() != host.data_ptr())
    return host


def waits(torch, act):
    """Whether the ledger knows that *act* makes the host wait for the earlier work on stream a."""
    x = torch.torch.zeros(4)
    torch.streams.now = torch.streams.a
    with operators(torch) as ledger:
        x.add_(1)
        act()
        torch.streams.now = torch.streams.b
        x.add_(1)
    assert not ledger.unknown
    return not ledger.races


def test_torch_indexing_waits_for_masks_of_the_device_and_copies_of_the_host(torch, host):
    x, index = torch.torch.zeros(4), torch.torch.tensor([0, 1, 2, 3])
    mask, values = index < 2, torch.torch.ones(2)
    assert waits(torch, lambda: x[mask])
    assert not waits(torch, lambda: x[index])
    assert not waits(torch, lambda: x[None, index])
    assert waits(torch, lambda: x.index_put_((mask,), values))
    assert not waits(torch, lambda: x.index_put_((index,), torch.torch.ones(4)))
    assert waits(torch, lambda: x.index_put_((index,), host))
    assert not waits(torch, lambda: x.index_put_((mask,), host[:1]))  # a fill
    assert waits(torch, lambda: x[host.view(torch.torch.int32)])
    assert not waits(torch, lambda: x[host.view(torch.torch.bool)[:4]])  # the host counts the mask without the device


def test_torch_operators_with_a_given_output_size_do_not_wait(torch):
    counts = torch.torch.tensor([1, 1])
    assert waits(torch, lambda: torch.torch.repeat_interleave(counts))
    assert not waits(torch, lambda: torch.torch.repeat_interleave(counts, output_size=2))


def test_torch_operators_whose_result_depends_on_data_wait(torch):
    x = torch.torch.eye(3)
    for act in (torch.torch.nonzero, torch.torch.unique, torch.torch.linalg.inv, lambda x: torch.torch.equal(x, x)):
        assert waits(torch, lambda act=act: act(x)), act
    for act in (torch.torch.linalg.inv_ex, torch.torch.sum, lambda x: torch.torch.is_same_size(x, x)):
        assert not waits(torch, lambda act=act: act(x)), act


def test_torch_copies_from_the_host_wait_unless_non_blocking(torch, host):
    x = torch.torch.zeros(4)
    assert waits(torch, lambda: x.copy_(host))
    assert not waits(torch, lambda: x.copy_(host, non_blocking=True))
    assert waits(torch, lambda: torch.torch.ops.aten._to_copy(host, dtype=torch.torch.float64))
    assert not waits(torch, lambda: torch.torch.ops.aten._to_copy(host, dtype=torch.torch.int32, non_blocking=True))
    assert not waits(torch, lambda: x.copy_(torch.torch.zeros(4)))


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.t_(),
        lambda x: x.unsqueeze_(0),
        lambda x: x.squeeze_(),
        lambda x: x.transpose_(0, 1),
        lambda x: x.as_strided_((2, 2), (1, 2)),
        lambda x: x.resize_(2),
        lambda x: x.is_same_size(x),
        copy.copy,
    ],
)
def test_torch_views_in_place_touch_nothing(torch, act):
    x = torch.torch.zeros(4, 4)
    with operators(torch) as ledger:
        x.add_(1)
        torch.streams.now = torch.streams.b
        act(x)
    assert not pairs(ledger)


@pytest.mark.parametrize("recorded", [True, False])
def test_torch_reuses_memory_recorded_on_a_stream_after_that_stream(torch, monkeypatch, recorded):
    block = np.zeros(8, dtype=np.float32)
    empty = torch.torch.library.Library("interop_test", "DEF")
    empty.define("again() -> Tensor")
    empty.impl("again", lambda: torch.torch.from_numpy(block), "CompositeExplicitAutograd")
    record = torch.torch.library.Library("aten", "IMPL", "CPU")
    record.impl("record_stream", nothing)
    monkeypatch.setattr(torch.library, "as_stream", lambda _stream: torch.streams.b)
    y = torch.torch.zeros(4)
    with operators(torch) as ledger:
        x = torch.torch.ops.interop_test.again()
        x.add_(1)
        torch.streams.b.wait_stream(torch.streams.a)
        if recorded:
            x[4:].record_stream(torch.torch.Stream(device="cpu"))
        torch.streams.now = torch.streams.b
        y.copy_(x[:4])
        torch.streams.now = torch.streams.a
        torch.torch.zeros(4)  # at another address
        again = torch.torch.ops.interop_test.again()
        assert bool(ledger.races) is not recorded
        before = len(ledger.races)
        torch.streams.b.wait_stream(torch.streams.a)
        torch.streams.now = torch.streams.b
        y.copy_(again[:4])
        assert len(ledger.races) == before
        torch.streams.now = torch.streams.a
        torch.torch.ops.interop_test.again()  # this time, nobody has recorded the memory on stream b
    assert len(ledger.races) == before + 1
    empty._destroy()
    record._destroy()


def test_torch_operators_that_call_functions_are_unknown(torch):
    x, yes = torch.torch.zeros(2), torch.torch.ones(()).bool()
    with operators(torch) as ledger:
        x.add_(1)
        torch.streams.now = torch.streams.b
        y = torch.torch.cond(yes, lambda x: x + 1, lambda x: x - 1, (x,))
        torch.streams.now = torch.streams.a
        y.add_(1)
    assert y.tolist() == [3.0, 3.0]
    assert not ledger.races
    assert {unknown.later.by for unknown in ledger.unknown} == {"PyTorch's cond", "PyTorch's aten::add_"}
    assert all("cannot be seen" in unknown.uncertainty for unknown in ledger.unknown)


def test_only_plain_torch_tensors_are_observed(interop_need):
    interop_need("torch")
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.two_tensor import TwoTensor

    library = importlib.import_module("interop.ledger.libraries.torch")

    class Mine(torch.Tensor):
        pass

    plain, mine = torch.zeros(2), torch.zeros(2).as_subclass(Mine)
    with FakeTensorMode():
        fake = torch.zeros(2, device="cuda")
    for tensor in (plain, mine, torch.nn.Parameter(plain)):
        assert library._is_plain(type(tensor))
    for tensor in (fake, TwoTensor(plain, plain)):
        assert not library._is_plain(type(tensor))
    assert fake.is_cuda
    assert not any(map(library.on_gpu, (plain, mine, fake)))


def test_operators_on_the_tensors_inside_a_wrapper_are_observed(torch, monkeypatch):
    from torch.testing._internal.two_tensor import TwoTensor

    monkeypatch.setattr(torch.library, "on_gpu", lambda tensor: torch.library._is_plain(type(tensor)))
    x, y = torch.torch.zeros(2), torch.torch.zeros(2)
    with operators(torch) as ledger:
        TwoTensor(x, y).add_(1)
        torch.streams.now = torch.streams.b
        y.add_(1)
    assert y.tolist() == [2.0, 2.0]
    assert [race.earlier.by for race in ledger.races] == ["PyTorch's aten::add_"]


def test_torch_nested_tensors_are_left_out(torch, monkeypatch):
    monkeypatch.undo()
    assert not torch.library.on_gpu(types.SimpleNamespace(is_cuda=True, is_nested=True))


def test_torch_copies_to_the_host_wait_unless_non_blocking(torch, host):
    x, y = torch.torch.zeros(4), torch.torch.zeros(4)
    for non_blocking in (False, True):
        torch.streams.now = torch.streams.a
        with operators(torch) as ledger:
            x.add_(1)
            host.copy_(x, non_blocking=non_blocking)
            torch.streams.now = torch.streams.b
            y.copy_(x)
        assert bool(pairs(ledger)) == non_blocking


def test_torch_backward_passes_are_never_a_race(torch):
    x, gradient = torch.torch.ones(4, requires_grad=True), torch.torch.ones(())
    with operators(torch) as ledger:
        y = x * 2
        squares = y * y  # kept alive: unlike device memory, freed host memory is given to another stream at once
        loss = squares.sum()
        torch.streams.now = torch.streams.b
        loss.backward(gradient)
    assert not ledger.races
    assert ledger.unknown
    assert "backward" in ledger.unknown[0].uncertainty


def test_torch_streams_and_events_are_observed(notes, monkeypatch, address, interop_need):
    interop_need("torch")
    import torch

    library = importlib.import_module("interop.ledger.libraries.torch")
    for cls, names in ((torch.cuda.Event, ("record", "wait", "synchronize")), (torch.cuda.Stream, ("synchronize",))):
        for name in names:
            monkeypatch.setattr(cls, name, nothing)
    for cls in (torch.cuda.Event, torch.cuda.Stream):
        monkeypatch.setattr(cls, "query", lambda _self: True)
    stream, event = ExternalStream(address), object()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(library, "as_stream", lambda given: given)
    monkeypatch.setattr(library, "as_event", lambda given: given.name)
    before = everything_of(torch.cuda.Event, torch.cuda.Stream, torch.cuda)

    class Event:
        cuda_event, name = 1, event

    class Unrecorded:
        cuda_event, name = 0, event

    with observing(library, notes):
        torch.cuda.Event.record(Event())
        torch.cuda.Event.wait(Event(), "stream")
        torch.cuda.Event.wait(Unrecorded(), "stream")
        torch.cuda.Event.synchronize(Event())
        torch.cuda.Event.query(Event())
        torch.cuda.Event.query(Unrecorded())
        torch.cuda.Stream.synchronize("stream")
        torch.cuda.Stream.query("stream")
    assert notes.calls == [
        ("recorded", stream, event),
        ("waited", "stream", event),
        ("finished", event),
        ("finished", event),
        ("finished", "stream"),
        ("finished", "stream"),
    ]
    assert everything_of(torch.cuda.Event, torch.cuda.Stream, torch.cuda) == before


def test_torch_calls_with_keyword_arguments_are_observed(notes, monkeypatch, address, interop_need):
    interop_need("torch")
    import torch

    library = importlib.import_module("interop.ledger.libraries.torch")
    monkeypatch.setattr(observer._cuda, "GPU", types.SimpleNamespace(primary_context=lambda device: device + 10))
    for name in ("record", "wait"):
        monkeypatch.setattr(torch.cuda.Event, name, nothing)
    monkeypatch.setattr(torch.cuda, "synchronize", nothing)
    for name in ("as_stream", "as_event"):
        monkeypatch.setattr(library, name, lambda given: given)

    class Event:
        cuda_event = 1
        device, event_id = types.SimpleNamespace(type="cuda"), address

        def record(self, stream=None):
            pass

        wait = synchronize = query = record

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(library._Events, "stream_of", lambda _self, stream, _event: stream)
    event = Event()
    with observing(library, notes):
        torch.cuda.Event.record(event, stream="stream")
        torch.cuda.Event.wait(self=event, stream="stream")
        torch.cuda.synchronize(device=1)
        torch.Event().record(stream="stream")
        torch.Event().wait(stream="stream")
    assert notes.names == ["recorded", "waited", "context_finished", "recorded", "waited"]
    assert [call[1] for call in notes.calls if call[0] != "context_finished"] == ["stream"] * 4
    assert notes.calls[2][2] == 11


def test_torch_events_of_other_devices_are_left_out(notes, monkeypatch, address, interop_need):
    interop_need("torch")
    import torch

    class Event:
        def __init__(self, kind="cuda", event_id=address):
            self.device, self.event_id = types.SimpleNamespace(type=kind), event_id

        def record(self, stream=None):
            pass

        def wait(self, stream=None):
            pass

        def synchronize(self):
            pass

        def query(self):
            return True

    library = importlib.import_module("interop.ledger.libraries.torch")
    current, other = (types.SimpleNamespace(cuda_stream=at, device=None) for at in (address, address + 16))
    monkeypatch.setattr(library, "_stream_of", lambda _device: current)
    monkeypatch.setattr(library, "as_stream", lambda given: given)
    monkeypatch.setattr(torch, "Event", Event)
    old = Event()
    with observing(library, notes):
        assert isinstance(old, torch.Event)
        for event in (torch.Event(), torch.Event("cpu"), torch.Event(event_id=0)):
            event.record()
            event.wait(other)
            event.synchronize()
            assert event.query()
    assert torch.Event is Event
    assert [(name, *(at.ptr for at in whom)) for name, *whom in notes.calls] == [
        ("recorded", address, address),
        ("waited", address + 16, address),
        ("finished", address),
        ("finished", address),
    ]
    assert all(call[1].owner is SEEN for call in notes.calls[:2])


def test_a_torch_mode_that_outlasts_the_ledger_stays(torch):
    from torch.utils import _python_dispatch as modes

    class Mode(modes.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(self)
            return func(*args, **kwargs or {})

    seen, first, second = [], Mode(), Mode()
    with contextlib.ExitStack() as later:
        with torch.library.Operators(Notes()):
            later.enter_context(first)
            later.enter_context(second)
        assert modes._get_current_dispatch_mode_stack() == [first, second]
        torch.torch.zeros(2)
        assert seen == [second, first]
    assert not modes._get_current_dispatch_mode_stack()
    assert not modes.is_in_torch_dispatch_mode()


def test_a_ledger_does_not_change_what_torch_compiles(torch):
    compiled = []

    def backend(module, _inputs):
        compiled.append(module)
        return module

    add = torch.torch.compile(lambda x: x.add_(1), backend=backend, fullgraph=True)
    with operators(torch) as ledger:
        add(torch.torch.zeros(2))
    assert len(compiled) == 1
    assert ledger.accesses


def test_the_waits_of_torch_streams_are_seen_through_their_events(notes, monkeypatch, interop_need):
    interop_need("torch")
    import torch

    library = importlib.import_module("interop.ledger.libraries.torch")
    for name in ("record", "wait"):
        monkeypatch.setattr(torch.cuda.Event, name, nothing)
    for name in ("as_stream", "as_event"):
        monkeypatch.setattr(library, name, lambda given: given)

    class Event:
        cuda_event = 1

        def record(self, stream):
            torch.cuda.Event.record(self, stream)

        def wait(self, stream):
            torch.cuda.Event.wait(self, stream)

    class Stream:
        wait_stream, wait_event = torch.cuda.Stream.wait_stream, torch.cuda.Stream.wait_event
        record_event = torch.cuda.Stream.record_event

    monkeypatch.setattr(torch.cuda.streams, "Event", Event)
    producer, consumer = Stream(), Stream()
    with observing(library, notes):
        consumer.wait_stream(producer)
    (recorded, its_stream, event), (waited, waiter, awaited) = notes.calls
    assert (recorded, its_stream, waited, waiter) == ("recorded", producer, "waited", consumer)
    assert event is awaited


# -- CuPy --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch, interop_need):
    """CuPy, whose streams and events call no CUDA."""
    interop_need("cupy")
    import cupy
    from cupy.cuda.stream import _BaseStream

    for cls, names in (
        (_BaseStream, ("wait_event", "record", "synchronize")),
        (cupy.cuda.Event, ("__init__", "__del__", "record", "synchronize")),
    ):
        for name in names:
            monkeypatch.setattr(cls, name, nothing)
    monkeypatch.setattr(_BaseStream, "record", lambda _self, event=None: event)
    for cls in (_BaseStream, cupy.cuda.Event):
        monkeypatch.setattr(cls, "done", property(lambda _self: True))
    for name in ("deviceSynchronize", "eventRecord", "streamWaitEvent", "streamSynchronize", "eventSynchronize"):
        monkeypatch.setattr(cupy.cuda.runtime, name, nothing)
    return cupy


def test_cupy_streams_and_events_are_observed(cupy, notes, address):
    from cupy.cuda.stream import _BaseStream

    library = importlib.import_module("interop.ledger.libraries.cupy")
    stream = cupy.cuda.Stream.from_external(ExternalStream(address))
    before = everything_of(_BaseStream, cupy.cuda.Event, cupy.cuda, cupy.cuda.runtime, cupy.ndarray)
    with observing(library, notes):
        event = cupy.cuda.Event()
        event.ptr = address
        assert stream.record(event) is event
        stream.wait_event(event)
        event.record(stream)
        stream.synchronize()
        assert stream.done
        event.synchronize()
        assert event.done
        assert isinstance(cupy.cuda.Device, type)
    assert everything_of(_BaseStream, cupy.cuda.Event, cupy.cuda, cupy.cuda.runtime, cupy.ndarray) == before
    assert notes.names == [
        "event_made",
        "recorded",
        "waited",
        "recorded",
        "finished",
        "finished",
        "finished",
        "finished",
    ]
    assert notes.calls[0] == ("event_made", event)
    for _, *arguments in notes.calls[1:]:
        assert arguments[0].cuda_stream == address if isinstance(arguments[0], ExternalStream) else True
        assert getattr(arguments[-1], "owner", None) in (event, stream)
    event.ptr = 0  # the finaliser must destroy nothing


def test_cupy_runtime_calls_are_observed(cupy, notes, monkeypatch, address):
    library = importlib.import_module("interop.ledger.libraries.cupy")
    monkeypatch.setattr(ExternalStream, "_find_context", nothing)  # it asks CUDA about default streams
    with observing(library, notes):
        cupy.cuda.runtime.eventRecord(address + 16, address)
        cupy.cuda.runtime.streamWaitEvent(0, address + 16)
        cupy.cuda.runtime.streamSynchronize(address)
        cupy.cuda.runtime.eventSynchronize(address + 16)
    assert [(name, *(at.ptr for at in whom)) for name, *whom in notes.calls] == [
        ("recorded", address, address + 16),
        ("waited", 1, address + 16),
        ("finished", address),
        ("finished", address + 16),
    ]
    assert all(call[1].owner is SEEN for call in notes.calls[:3])


def test_cupy_calls_with_keyword_arguments_are_observed(cupy, notes, monkeypatch, address):
    library = importlib.import_module("interop.ledger.libraries.cupy")
    monkeypatch.setattr(ExternalStream, "_find_context", nothing)  # it asks CUDA about default streams
    monkeypatch.setattr(cupy.ndarray, "get", nothing, raising=False)
    event, stream = np.int64(address + 16), np.int64(address)
    own = cupy.cuda.Stream.from_external(ExternalStream(address))
    with observing(library, notes):
        cupy.cuda.runtime.eventRecord(event=event, stream=stream)
        cupy.cuda.runtime.streamWaitEvent(stream=stream, event=event, flags=0)
        cupy.cuda.runtime.streamWaitEvent(stream, event, 0)
        cupy.cuda.runtime.streamWaitEvent(stream, event, flags=0)
        cupy.cuda.runtime.streamSynchronize(stream=stream)
        cupy.cuda.runtime.eventSynchronize(event=event)
        made = cupy.cuda.Event(block=False, disable_timing=True, interprocess=False)
        made.ptr = address
        made.record(stream=own)
        own.record(event=made)
        own.wait_event(event=made)
        own.synchronize()
        cupy.ndarray.get("array", stream=own, order="C", out=None, blocking=True)
        cupy.ndarray.get("array", own, "C", None, True)
        cupy.ndarray.get("array", order="C", out=None, blocking=False)
    assert notes.names == [
        *["recorded", *["waited"] * 3, "finished", "finished"],
        *["event_made", "recorded", "recorded", "waited", "finished", "finished", "finished"],
    ]
    assert [[at.ptr for at in call[1:]] for call in notes.calls[:4]] == [[address, address + 16]] * 4
    made.ptr = 0  # the finaliser must destroy nothing


def test_cupy_host_waits_are_observed(cupy, notes, monkeypatch, address):
    library = importlib.import_module("interop.ledger.libraries.cupy")
    cuda = types.SimpleNamespace(current_context=lambda: 3, primary_context=lambda device: device + 10)
    monkeypatch.setattr(observer._cuda, "GPU", cuda)
    monkeypatch.setattr(library, "_current", lambda: "current")

    class Device:
        id = 5

        def synchronize(self):
            pass

    monkeypatch.setattr(cupy.cuda, "Device", Device)
    with observing(library, notes):
        cupy.cuda.runtime.deviceSynchronize()
        cupy.cuda.Device().synchronize()
        assert isinstance(Device(), cupy.cuda.Device)
        assert not isinstance(3, cupy.cuda.Device)
    assert cupy.cuda.Device is Device
    assert notes.calls == [("context_finished", cuda, 3), ("context_finished", cuda, 15)]
    del notes.calls[:]
    told = library._Observer(notes)
    stream = cupy.cuda.Stream.from_external(ExternalStream(address))
    told.copied_to_host(None, "array")
    told.copied_to_host(None, "array", stream=stream)
    told.copied_to_host(None, "array", blocking=False)
    assert [call[1] for call in notes.calls] == ["current", interop.as_stream(stream)]


def test_cupy_get_is_patched_only_in_the_block(cupy, notes):
    # item(), float() and asnumpy() are compiled, and call `get` of the class. Without a GPU, only the patch is tested.
    library = importlib.import_module("interop.ledger.libraries.cupy")
    assert "get" not in vars(cupy.ndarray)
    with observing(library, notes):
        assert "get" in vars(cupy.ndarray)
    assert "get" not in vars(cupy.ndarray)


def test_cupy_pool_allocations_are_observed(cupy, notes, monkeypatch):
    library = importlib.import_module("interop.ledger.libraries.cupy")
    monkeypatch.setattr(library, "_current", lambda: "current")
    with observing(library, notes):
        hooks = list(cupy.cuda.memory_hook._get_memory_hooks().values()) if _has_hooks(cupy) else [library._pool(notes)]
        for hook in hooks:
            hook.alloc_postprocess(device_id=0, mem_size=512, mem_ptr=1024)
            hook.malloc_postprocess(device_id=0, size=8, mem_size=512, mem_ptr=1024, pmem_id=7)
    fresh, given = notes.calls
    assert fresh == ("driver_allocated", block(1024, 512))
    assert given[:3] == ("pool_allocated", "current", block(1024, 512))


def _has_hooks(cupy):
    return hasattr(cupy.cuda.memory_hook, "_get_memory_hooks")


def test_reuse_of_memory_by_a_pool_is_unknown():
    with interop.sim.simulate() as gpu, check() as ledger:
        old = types.SimpleNamespace(
            __cuda_array_interface__={"version": 3, "shape": (8,), "typestr": "|u1", "data": (1 << 40, False)}
        )
        memory = block(1 << 40, 8)
        pool, consumer = (interop.as_stream(gpu.stream(name)) for name in ("pool", "consumer"))
        ledger.reads(old, consumer)
        ledger.pool_allocated(pool, memory, "a new array")
        [unknown] = ledger.unknown
        assert unknown.earlier.stream == "consumer"
        assert "cannot be seen" in unknown.uncertainty
        ledger.driver_allocated(memory)
        ledger.writes(old, pool)
    assert not ledger.races


# -- Numba -------------------------------------------------------------------------------------------------------


class NumbaKernel:
    """A compiled kernel, as far as the ledger looks at one."""

    def __init__(self, function, *signature):
        from numba import cuda

        self.py_func, self.argument_types, self.extensions = function, signature, []
        self.ptx, _ = cuda.compile(function, signature, cc=(8, 0), device=False, abi="numba")
        self.entry_name = re.search(r"\.entry (\w+)", self.ptx)[1]
        self.asked = 0

    def inspect_asm(self, _cc):
        self.asked += 1
        return self.ptx


@pytest.fixture
def numba(monkeypatch, interop_need):
    interop_need("numba")
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import driver

    for owner, names in (
        (driver.Event, ("record", "wait", "synchronize")),
        (driver.Stream, ("synchronize",)),
        (driver.Context, ("synchronize",)),
        (driver, ("host_to_device", "device_to_host", "device_to_device")),
        (dispatcher._Kernel, ("launch",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, nothing)
    monkeypatch.setattr(driver.Event, "query", lambda _self: True)
    monkeypatch.setattr(driver, "device_pointer", int)
    return types.SimpleNamespace(
        driver=driver, dispatcher=dispatcher, library=importlib.import_module("interop.ledger.libraries.numba")
    )


def test_numba_streams_and_events_are_observed(numba, notes, address):
    driver = numba.driver
    before = everything_of(driver, driver.Event, driver.Stream, driver.Context, numba.dispatcher._Kernel)
    stream = driver.Stream(address, external=True)
    with observing(numba.library, notes):
        event = driver.Event(address)
        event.record(stream)
        event.wait(stream=stream)
        event.synchronize()
        assert event.query()
        stream.synchronize()
    assert everything_of(driver, driver.Event, driver.Stream, driver.Context, numba.dispatcher._Kernel) == before
    assert notes.names == ["event_made", "recorded", "waited", "finished", "finished", "finished"]
    for name, *arguments in notes.calls[1:3]:
        assert arguments[0].owner is stream, name
        assert arguments[1].owner is event, name


def device_array(at):
    return types.SimpleNamespace(
        __cuda_array_interface__={"version": 3, "shape": (8,), "typestr": "<f8", "data": (at, False)}
    )


def test_numba_launches_are_observed(numba, notes, address):
    from cuda.core import Stream
    from numba import float64, int32

    def fill(a, n, b, unused):
        a[n] = b[n]

    def number(n):
        pass

    a, b, unused = (device_array(at << 40) for at in (1, 2, 3))
    kernel = NumbaKernel(fill, float64[:], int32, float64[::1], float64[:])
    launch = Stream.from_handle(address)  # Numba passes its stream so
    with observing(numba.library, notes):
        numba.dispatcher._Kernel.launch(kernel, (a, 3, b, unused), (1, 1, 1), (1, 1, 1), launch, 0)
        numba.dispatcher._Kernel.launch(kernel, (a, 3, np.zeros(3), unused), (1, 1, 1), (1, 1, 1), launch, 0)
        numba.dispatcher._Kernel.launch(NumbaKernel(number, int32), (3,), (1, 1, 1), (1, 1, 1), launch, 0)
    (name, stream, touched, by), (_, _, touched_2, _) = notes.calls
    assert (name, by) == ("accessed", "Numba kernel 'fill'")
    assert stream.cuda_stream == address
    assert stream.owner is SEEN
    assert touched == [(a, block(1 << 40, 64), Kind.WRITE), (b, block(2 << 40, 64), Kind.READ)]
    assert touched_2 == touched[:1]
    assert kernel.asked == 1


def test_what_a_numba_kernel_does_is_told_from_its_ptx(numba):
    from numba import boolean, complex64, cuda, float32, int8, int64
    from numba.types import UniTuple

    from interop.ledger.libraries.numba_kernels import touched_by

    def mixed(scale, a, flag, pair, small, b, index, c):
        i = cuda.grid(1)
        kept = cuda.shared.array(32, float32)
        kept[cuda.threadIdx.x] = b[index[i], 1]
        cuda.syncthreads()
        if flag:
            cuda.atomic.add(a, i, kept[0] * scale.real + small)
        pair[0][i] = pair[1][i]
        (c if i % 2 else b[1])[index[i]] = 1

    row = float32[::1]
    kernel = NumbaKernel(mixed, complex64, float32[:], boolean, UniTuple(row, 2), int8, float32[:, ::1], int64[:], row)
    a, first, second, b, index, c = (device_array(at << 40) for at in range(1, 7))
    found = list(touched_by(kernel, (1j, a, True, (first, second), 1, b, index, c)))
    assert found == [
        (a, Kind.WRITE),
        (first, Kind.WRITE),
        (second, Kind.READ),
        (b, Kind.MAYBE),
        (index, Kind.READ),
        (c, Kind.MAYBE),
    ]


def test_an_extension_of_numba_makes_accesses_unknown(numba):
    from numba import float32

    from interop.ledger.libraries.numba_kernels import touched_by

    def read(a):
        a[0]

    kernel = NumbaKernel(read, float32[:])
    kernel.extensions = [object()]
    array = device_array(1 << 40)
    assert list(touched_by(kernel, (array,))) == [(array, Kind.MAYBE)]


def test_arrays_in_tuples_of_numba_launches_are_observed(numba, notes, address):
    from numba import float64, int64
    from numba.types import Tuple

    def copy(a, pair):
        a[0] = pair[1][0][0]

    arrays = [device_array(at << 40) for at in (1, 2)]
    kernel = NumbaKernel(copy, float64[:], Tuple((int64, Tuple((float64[:],)))))
    stream = numba.driver.Stream(address, external=True)
    with observing(numba.library, notes):
        numba.dispatcher._Kernel.launch(kernel, (arrays[0], (3, (arrays[1],))), (1, 1, 1), (1, 1, 1), stream, 0)
    assert [touched[0] for touched in notes.calls[0][2]] == arrays


def test_numba_copies_are_observed(numba, notes, address):
    stream = numba.driver.Stream(address, external=True)
    with observing(numba.library, notes):
        numba.driver.host_to_device(1024, "host", 64, stream=stream)
        numba.driver.device_to_host("host", 1024, 64, stream)
        numba.driver.device_to_device(2048, 1024, 64, stream=stream)
    assert notes.names == ["accessed"] * 3
    at = [block(1024, 64), block(2048, 64)]
    assert [[touched[1:] for touched in arrays] for _, _, arrays, _ in notes.calls] == [
        [(at[0], Kind.WRITE)],
        [(at[0], Kind.READ)],
        [(at[1], Kind.WRITE), (at[0], Kind.READ)],
    ]


def test_numba_calls_with_keyword_arguments_are_observed(numba, notes, monkeypatch, address):
    driver = numba.driver
    for owner, name in (
        (driver.Context, "memalloc"),
        (numba.dispatcher._LaunchConfiguration, "__init__"),
    ):
        monkeypatch.setattr(owner, name, nothing)
    stream = driver.Stream(address, external=True)
    from numba import float64

    def fill(a):
        a[0] = 1

    array = device_array(1 << 40)
    kernel = NumbaKernel(fill, float64[:])
    grid = {"griddim": (1, 1, 1), "blockdim": (1, 1, 1)}
    with observing(numba.library, notes):
        event = driver.Event(handle=address, finalizer=None)
        event.record(stream=stream)
        event.wait(stream=stream)
        driver.Event.synchronize(self=event)
        driver.host_to_device(dst=1024, src="host", size=64, stream=stream)
        driver.device_to_host(dst="host", src=1024, size=64, stream=stream)
        driver.device_to_device(dst=2048, src=1024, size=64, stream=stream)
        numba.dispatcher._Kernel.launch(kernel, args=(array,), **grid, stream=stream, sharedmem=0)
        numba.dispatcher._Kernel.launch(kernel, (array,), (1, 1, 1), (1, 1, 1), stream, sharedmem=0)
        numba.dispatcher._Kernel.launch(kernel, (array,), (1, 1, 1), (1, 1, 1), stream, 0)
        numba.dispatcher._LaunchConfiguration("dispatcher", **grid, stream=interop.as_stream(stream), sharedmem=0)
        driver.Context.memalloc(types.SimpleNamespace(memory_manager=None), bytesize=8)
    assert notes.names == ["event_made", "recorded", "waited", "finished", *["accessed"] * 6, "stream_used"]
    assert all(call[1].ptr == address for call in notes.calls[4:])


def test_a_cuda_core_stream_given_to_numba_is_uncertain(numba, notes, address):
    from cuda.core import Stream

    told = numba.library._Observer(notes).configured
    told(None, "launch", "dispatcher", (1, 1, 1), (1, 1, 1), Stream.from_handle(address), 0)
    told(None, "launch", "dispatcher", (1, 1, 1), (1, 1, 1), 0, 0)
    told(None, "launch", "dispatcher", (1, 1, 1), (1, 1, 1), numba.driver.Stream(address), 0)
    assert [(name, stream.cuda_stream) for name, stream in notes.calls] == [("stream_used", address)]


# -- what cannot be seen -----------------------------------------------------------------------------------------


@pytest.fixture
def uncertain(monkeypatch):
    """A simulation, and a set of handles: the ledger cannot see the waits of these streams, as on a GPU."""
    with interop.sim.simulate() as gpu:
        handles = set()
        monkeypatch.setattr(
            interop.ledger.Ledger,
            "_uncertainty_about",
            lambda _ledger, stream: "its waits cannot be seen" if stream.cuda_stream in handles else "",
        )
        yield gpu, handles


def test_an_access_on_an_uncertain_stream_is_unknown(uncertain):
    gpu, handles = uncertain
    x, a, b = gpu.array([0.0]), gpu.stream("a"), gpu.stream("b")
    handles.add(b.__cuda_stream__()[1])
    with check() as ledger:
        ledger.writes(x, a)
        ledger.reads(x, b)
    assert [unknown.uncertainty for unknown in ledger.unknown] == ["its waits cannot be seen"]


def test_an_access_after_a_wait_for_an_uncertain_stream_is_unknown(uncertain):
    gpu, handles = uncertain
    x, a, b, c = gpu.array([0.0]), gpu.stream("a"), gpu.stream("b"), gpu.stream("c")
    handles.add(b.__cuda_stream__()[1])
    with check(raises=False) as ledger:
        ledger.writes(x, a)
        ledger.reads(x, c)
        assert len(ledger.races) == 1
        interop.as_stream(c).wait_stream(b)
        ledger.reads(x, c)
    assert len(ledger.races) == 1
    assert len(ledger.unknown) == 1


def test_the_host_may_have_waited_for_an_uncertain_stream(uncertain):
    gpu, handles = uncertain
    x, a, b = gpu.array([0.0]), gpu.stream("a"), gpu.stream("b")
    handles.add(a.__cuda_stream__()[1])
    with check() as ledger:
        ledger.writes(x, a)
        ledger.reads(x, b)
    assert len(ledger.unknown) == 1


CALLS = {
    "runtime": [
        "cudaDeviceSynchronize",
        "cudaStreamSynchronize",
        "cudaStreamQuery",
        "cudaStreamWaitEvent",
        "cudaEventRecord",
        "cudaEventRecordWithFlags",
        "cudaEventSynchronize",
        "cudaEventQuery",
    ],
    "driver": [
        "cuCtxSynchronize",
        "cuStreamSynchronize",
        "cuStreamQuery",
        "cuStreamWaitEvent",
        "cuEventRecord",
        "cuEventRecordWithFlags",
        "cuEventSynchronize",
        "cuEventQuery",
    ],
}


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("module", CALLS)
def test_calls_of_cuda_bindings_are_observed(notes, monkeypatch, address, module, status):
    bindings = importlib.import_module(f"cuda.bindings.{module}")
    library = importlib.import_module("interop.ledger.libraries.bindings")
    monkeypatch.setattr(observer._cuda, "GPU", types.SimpleNamespace(current_context=lambda: 3))
    for name in CALLS[module]:
        monkeypatch.setattr(bindings, name, lambda *_arguments: (status,))
    before = everything_of(bindings)
    with observing(library, notes):
        device_done, stream_done, stream_asked, wait, record, record_with, event_done, event_asked = (
            getattr(bindings, name) for name in CALLS[module]
        )
        stream = bindings.cudaStream_t(address) if module == "runtime" else bindings.CUstream(address)
        event = bindings.cudaEvent_t(address + 16) if module == "runtime" else bindings.CUevent(address + 16)
        device_done()
        stream_done(address)
        stream_asked(stream)
        wait(address, event, 0)
        record(event, stream)
        record_with(event, stream, 0)
        event_done(event)
        event_asked(address + 16)
    assert everything_of(bindings) == before
    if status:
        assert not notes.calls
    else:
        assert notes.names == ["context_finished", *["finished"] * 2, "waited", *["recorded"] * 2, *["finished"] * 2]
        assert [[at.ptr for at in call[1:]] for call in notes.calls[1:]] == [
            *[[address]] * 2,
            *[[address, address + 16]] * 3,
            *[[address + 16]] * 2,
        ]


NAMED = [
    ("StreamSynchronize", ["stream"]),
    ("StreamQuery", ["stream"]),
    ("StreamWaitEvent", ["stream", "event", "flags"]),
    ("EventRecord", ["event", "stream"]),
    ("EventRecordWithFlags", ["event", "stream", "flags"]),
    ("EventSynchronize", ["event"]),
    ("EventQuery", ["event"]),
]
DRIVERS = {"stream": "hStream", "event": "hEvent", "flags": "flags"}


@pytest.mark.parametrize("module", CALLS)
def test_calls_of_cuda_bindings_with_keyword_arguments_are_observed(notes, monkeypatch, address, module):
    bindings = importlib.import_module(f"cuda.bindings.{module}")
    library = importlib.import_module("interop.ledger.libraries.bindings")
    values = {"stream": address, "event": address + 16, "flags": 0}
    calls = []
    for name, arguments in NAMED:
        full = ("cuda" if module == "runtime" else "cu") + name
        theirs = {DRIVERS[key] if module == "driver" else key: values[key] for key in arguments}
        if full == "cuStreamWaitEvent":
            theirs["Flags"] = theirs.pop("flags")
        assert list(theirs) == list(inspect.signature(getattr(bindings, full)).parameters)
        monkeypatch.setattr(bindings, full, lambda *args, **named: (0, args, named))
        calls.append((full, theirs))
    with observing(library, notes):
        for full, theirs in calls:
            assert getattr(bindings, full)(**theirs) == (0, (), theirs)
            first, *rest = theirs
            by_name = {name: theirs[name] for name in rest}
            assert getattr(bindings, full)(theirs[first], **by_name) == (0, (theirs[first],), by_name)
    names = ["finished", "finished", "waited", "recorded", "recorded", "finished", "finished"]
    assert notes.names == [name for name in names for _ in range(2)]
    at = {"finished": [address], "waited": [address, address + 16], "recorded": [address, address + 16]}
    assert [[each.ptr for each in call[1:]] for call in notes.calls[:10]] == [at[name] for name in notes.names[:10]]
    assert [call[1].ptr for call in notes.calls[10:]] == [address + 16] * 4


def test_no_other_function_of_cuda_bindings_is_patched(notes):
    from cuda.bindings import driver, runtime

    before = everything_of(driver, runtime)
    with observing(importlib.import_module("interop.ledger.libraries.bindings"), notes):
        replaced = {key[1] for key, value in everything_of(driver, runtime).items() if value is not before[key]}
    assert replaced == {*CALLS["runtime"], *CALLS["driver"]}


def test_interops_own_calls_of_cuda_bindings_are_not_observed(notes, monkeypatch, address):
    from cuda.bindings import driver, runtime

    for name in CALLS["runtime"]:
        monkeypatch.setattr(runtime, name, lambda *_arguments: (0,))
    monkeypatch.setattr(runtime, "cudaThreadExchangeStreamCaptureMode", lambda mode: (0, mode))
    cuda = _cuda.Cuda(lambda: (runtime, driver), lambda _: True)
    cuda._runtime = runtime
    with observing(importlib.import_module("interop.ledger.libraries.bindings"), notes):
        cuda.event_record(address, address)
        cuda.stream_wait_event(address, address)
        cuda.stream_synchronize(address)
        cuda.event_query(address)
        assert not notes.calls
        runtime.cudaEventRecord(address, address)
    assert notes.names == ["recorded"]


def test_calls_inside_an_observed_call_are_not_observed(notes):
    class Driver:
        def wait(self):
            pass

    class Stream:
        def synchronize(self):
            Driver().wait()

    with patched(
        lambda patches: patches.observe(Driver, "wait", notes.inner),
        lambda patches: patches.observe(Stream, "synchronize", notes.outer),
    ):
        Stream().synchronize()
        Driver().wait()
    assert notes.names == ["outer", "inner"]


def test_a_method_that_outlives_the_block_is_not_observed_after_it(notes):
    class Device:
        def synchronize(self):
            return "done"

    class Stream:
        def wait(self):
            return "waited"

    module = types.SimpleNamespace(Device=Device)
    with patched(
        lambda patches: patches.observe_class(module, "Device", synchronize=notes.device_done),
        lambda patches: patches.observe(Stream, "wait", notes.waited),
    ):
        device, wait = module.Device(), Stream().wait
        synchronize = device.synchronize
        assert (synchronize(), wait()) == ("done", "waited")
    assert notes.names == ["device_done", "waited"]
    assert (device.synchronize(), synchronize(), wait()) == ("done", "done", "waited")
    assert notes.names == ["device_done", "waited"]


def test_a_class_derived_in_the_block_has_its_own_instances(notes):
    class Device:
        def synchronize(self):
            pass

    module, old = types.SimpleNamespace(Device=Device), Device()
    with patched(lambda patches: patches.observe_class(module, "Device", synchronize=notes.device_done)):

        class Derived(module.Device):
            pass

        assert isinstance(old, module.Device)
        assert not isinstance(old, Derived)
        assert not isinstance(module.Device(), Derived)
        assert isinstance(Derived(), Derived)
        assert isinstance(Derived(), module.Device)
    assert module.Device is Device
    assert isinstance(Derived(), Device)
    assert not isinstance(old, Derived)


def test_a_method_called_through_its_class_is_observed(notes):
    class Stream:
        def synchronize(self, timeout):
            return timeout

    class Eyes:
        def synchronized(self, result, stream, timeout):
            notes.outer(result, stream, timeout)

    stream = Stream()
    with patched(lambda patches: patches.observe(Stream, "synchronize", Eyes().synchronized)):
        assert Stream.synchronize(self=stream, timeout=3) == 3
    assert notes.calls == [("outer", 3, stream, 3)]


def test_the_device_sync_of_cuda_core_is_observed(notes, monkeypatch, interop_need):
    interop_need("cuda.core")
    from cuda.core import Device

    library = importlib.import_module("interop.ledger.libraries.cuda_core")
    cuda = types.SimpleNamespace(primary_context=lambda device: device + 10)
    monkeypatch.setattr(observer._cuda, "GPU", cuda)
    monkeypatch.setattr(Device, "sync", nothing)
    with observing(library, notes):
        Device.sync(types.SimpleNamespace(device_id=5))
    assert Device.sync is nothing
    assert notes.calls == [("context_finished", cuda, 15)]


def test_warp_host_waits_are_observed(notes, monkeypatch):
    class Stream:
        pass

    def device(name):
        is_cuda = name != "cpu"
        return types.SimpleNamespace(is_cuda=is_cuda, ordinal=name, stream=f"stream of {name}")

    warp = types.ModuleType("warp")
    for name in ("synchronize", "synchronize_device", "synchronize_stream", "synchronize_event"):
        setattr(warp, name, nothing)
    warp.Stream = Stream
    warp.get_device = lambda given: given if isinstance(given, types.SimpleNamespace) else device(given or 0)
    warp.get_cuda_devices = lambda: [device(0), device(1)]
    monkeypatch.setitem(sys.modules, "warp", warp)
    monkeypatch.delitem(sys.modules, "interop.ledger.libraries.warp", raising=False)
    library = importlib.import_module("interop.ledger.libraries.warp")
    cuda = types.SimpleNamespace(primary_context=lambda device: device + 10)
    monkeypatch.setattr(observer._cuda, "GPU", cuda)
    for name in ("as_stream", "as_event"):
        monkeypatch.setattr(observer, name, lambda given: given)
    stream = Stream()
    with observing(library, notes):
        warp.synchronize()
        warp.synchronize_device()
        warp.synchronize_device("cpu")
        warp.synchronize_stream(stream)
        warp.synchronize_stream(1)
        warp.synchronize_event("event")
        warp.synchronize_device(device=1)
        warp.synchronize_stream(stream_or_device=stream)
        warp.synchronize_event(event="event")
    assert warp.synchronize is nothing
    assert notes.calls == [
        *[("context_finished", cuda, context) for context in (10, 11, 10)],
        *[("finished", what) for what in (stream, "stream of 1", "event")],
        ("context_finished", cuda, 11),
        *[("finished", what) for what in (stream, "event")],
    ]
    del sys.modules["interop.ledger.libraries.warp"]


@pytest.mark.parametrize("through_interop", [False, True])
def test_a_wait_below_the_libraries_is_not_seen(through_interop):
    with interop.sim.simulate() as gpu, check(raises=False) as ledger:
        x, a, b = gpu.array([0.0]), interop.as_stream(gpu.stream("a")), interop.as_stream(gpu.stream("b"))
        ledger.writes(x, a)
        if through_interop:
            b.wait_stream(a)
        else:
            event = gpu.runtime.cudaEventCreateWithFlags(2)[1]
            gpu.runtime.cudaEventRecord(event, a.cuda_stream)
            gpu.runtime.cudaStreamWaitEvent(b.cuda_stream, event, 0)
        ledger.reads(x, b)
    assert bool(ledger.races) is not through_interop


def test_the_ledger_says_why_a_stream_is_uncertain(address, interop_need):
    interop_need("cuda.core")
    from cuda.core import Stream

    ledger = interop.ledger.Ledger(strict=False)
    assert "bare address" in ledger._uncertainty_about(interop.as_stream(address))
    assert "cuda.core" in ledger._uncertainty_about(interop.as_stream(Stream.from_handle(address)))
    owned = ExternalStream(address, owner=SEEN)
    assert not ledger._uncertainty_about(owned)
    owned._natives = {"rmm": object()}
    assert "rmm" in ledger._uncertainty_about(owned)
    assert not any(_uncertainty_of(library) for library in OBSERVED)


@pytest.mark.parametrize("made", [True, False])
def test_an_event_is_known_by_its_object_and_by_its_address(made):
    with interop.sim.simulate() as gpu:
        x, a, b = gpu.array([0.0]), interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
        event = interop.Event()
        address = event.cuda_event
        with check(raises=False) as ledger:
            if made:
                ledger.event_made(event)
            ledger.writes(x, a)
            a.record_event(address)
            b.wait_event(event)
            ledger.reads(x, b)
    assert not ledger.races
    assert bool(ledger.unknown) is not made


def test_ledgers_are_closed_in_any_order(interop_need):
    interop_need("torch")
    import torch
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    before = everything_of(torch.cuda.Event, torch.cuda.Stream, torch.cuda)
    with contextlib.ExitStack() as one, contextlib.ExitStack() as other:
        first = one.enter_context(check())
        second = other.enter_context(check())
        one.close()
        session._all._count_capture()
        assert (first.captured, second.captured) == (0, 1)
        assert everything_of(torch.cuda.Event, torch.cuda.Stream, torch.cuda) != before
        other.close()
        assert everything_of(torch.cuda.Event, torch.cuda.Stream, torch.cuda) == before
        assert not _get_current_dispatch_mode_stack()


def test_only_one_thread_at_a_time_opens_ledgers():
    opened, close = threading.Event(), threading.Event()

    def other():
        with check():
            opened.set()
            close.wait()

    thread = threading.Thread(target=other, daemon=True)  # also if this test fails
    thread.start()
    opened.wait()
    with pytest.raises(NotSupportedError, match="another thread"), check():
        pass
    close.set()
    thread.join()
    with check(), check():
        pass


def test_a_ledger_is_closed_by_the_thread_that_has_opened_it(interop_need):
    interop_need("torch")
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    def close():
        with pytest.raises(NotSupportedError, match="has to close it"):
            block.__exit__(None, None, None)

    block = check()
    with block as ledger:
        in_thread(close)
        session._all._count_capture()
        assert ledger.captured == 1
    assert not _get_current_dispatch_mode_stack()
    with check():
        pass


def test_a_simulated_ledger_is_closed_by_any_thread():
    with interop.sim.simulate():
        block = check()
        block.__enter__()
        in_thread(lambda: block.__exit__(None, None, None))
    assert not watchers.active
