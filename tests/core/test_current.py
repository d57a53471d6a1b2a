"""``use`` and ``current_stream``, on the simulator, with stand-in libraries that have a current stream."""

import asyncio
import contextlib
import importlib.machinery
import re
import sys
import threading
import types

import pytest

import interop
from interop import adapters, sim
from interop.adapters.base import Adapter
from interop.errors import (
    AdapterError,
    CaptureError,
    InvalidDeviceError,
    InvalidStreamError,
    LibraryNotFoundError,
    NestingError,
    NotSupportedError,
    RaceError,
    UnrecordedEventError,
)
from tests.threads import in_threads


class StandIn(Adapter):
    """A library with a current stream for each thread. A test can make its calls fail."""

    simulated = True

    def __init__(self, library, log):
        self.library = library
        self.log = log
        self.broken = False
        self.state = threading.local()
        self.type = type("Stream", (types.SimpleNamespace,), {"__module__": library})

    def stream_handle(self, stream):
        return stream.handle if isinstance(stream, self.type) else None

    def make_stream(self, source):
        return self.type(handle=source.handle, source=source)

    def current_stream(self):
        return getattr(self.state, "stream", None)

    def enter(self, stream, before):  # noqa: ARG002
        if self.broken:
            raise OSError(self.library)
        self.state.stream = stream
        self.log.append(("enter", self.library, interop._cuda.active().current_device()))

    def leave(self, before):
        self.state.stream = before
        self.log.append(("leave", self.library, interop._cuda.active().current_device()))


@pytest.fixture
def gpu():
    with sim.simulate(devices=2) as gpu:
        yield gpu


@pytest.fixture
def libraries(registry, monkeypatch):
    log = []
    found = []
    for name in ("alpha", "beta"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        found.append(StandIn(name, log))
        interop.register(name, found[-1])
    return found


def handles(libraries):
    return [getattr(library.current_stream(), "handle", None) for library in libraries]


def test_every_loaded_library_is_switched_and_restored(gpu, libraries):
    stream = interop.new_stream()
    with interop.use(stream) as entered:
        assert entered is stream
        assert handles(libraries) == [stream.cuda_stream] * 2
    assert handles(libraries) == [None, None]


def test_with_stream_is_the_same(gpu, libraries):
    stream = interop.new_stream()
    with stream as entered:
        assert entered is stream
        assert handles(libraries) == [stream.cuda_stream] * 2
    assert handles(libraries) == [None, None]


def test_only_named_libraries_are_switched(gpu, libraries):
    stream = interop.new_stream()
    with interop.use(stream, "beta"):
        assert handles(libraries) == [None, stream.cuda_stream]
    assert handles(libraries) == [None, None]


def test_a_library_that_is_not_loaded_is_left_alone(gpu, libraries, monkeypatch):
    monkeypatch.delitem(sys.modules, "alpha")
    stream = interop.new_stream()
    with interop.use(stream):
        assert handles(libraries) == [None, stream.cuda_stream]


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("current", [0, 1])
def test_the_device_is_switched_with_it(gpu, libraries, device, current):
    gpu.runtime.cudaSetDevice(current)
    with interop.use(interop.new_stream(device)):
        assert gpu.runtime.cudaGetDevice()[1] == device
        gpu.runtime.cudaSetDevice(1 - device)
    assert gpu.runtime.cudaGetDevice()[1] == current
    # A library has a current stream for each device. It is switched on the stream's device, and switched back there.
    assert {place for _, _, place in libraries[0].log} == {device}


def test_a_stream_of_another_library_is_made_current(gpu, libraries):
    native = gpu.stream()
    with interop.use(native):
        assert handles(libraries) == [native.__cuda_stream__()[1]] * 2


def test_restored_after_an_exception(gpu, libraries):
    with pytest.raises(KeyError), interop.use(interop.new_stream()):
        raise KeyError
    assert handles(libraries) == [None, None]
    assert [what for what, *_ in libraries[0].log] == ["enter", "enter", "leave", "leave"]


def test_libraries_are_restored_in_reverse_order(gpu, libraries):
    with interop.use(interop.new_stream()):
        pass
    assert [(what, library) for what, library, _ in libraries[0].log] == [
        ("enter", "alpha"),
        ("enter", "beta"),
        ("leave", "beta"),
        ("leave", "alpha"),
    ]


def test_one_library_that_cannot_switch_leaves_none_switched(gpu, libraries):
    libraries[1].broken = True
    gpu.runtime.cudaSetDevice(1)
    with pytest.raises(OSError, match="beta"), interop.use(interop.new_stream(0)):
        pytest.fail("the block must not run")
    assert handles(libraries) == [None, None]
    assert gpu.runtime.cudaGetDevice()[1] == 1
    with pytest.raises(InvalidStreamError):
        interop.Event().record()


def test_nested(gpu, libraries):
    a, b = interop.new_stream(0), interop.new_stream(1)
    outer = interop.use(a)
    with outer:
        with b:
            with outer, a:
                assert handles(libraries) == [a.cuda_stream] * 2
            assert handles(libraries) == [b.cuda_stream] * 2
            assert gpu.runtime.cudaGetDevice()[1] == 1
        assert handles(libraries) == [a.cuda_stream] * 2
        assert gpu.runtime.cudaGetDevice()[1] == 0
    assert handles(libraries) == [None, None]


def test_a_stream_that_the_block_has_set_is_replaced_at_the_exit(gpu, libraries):
    with interop.use(interop.new_stream()):
        libraries[0].state.stream = types.SimpleNamespace(handle=1)
    assert handles(libraries) == [None, None]


def test_two_threads_at_once_with_one_manager(gpu, libraries):
    shared = interop.new_stream()
    manager = interop.use(shared)
    meet = threading.Barrier(2, timeout=10)

    def work():
        try:
            mine, own = interop.new_stream(), interop.new_stream()
            for _ in range(5):
                with mine:
                    meet.wait()
                    with manager:
                        meet.wait()
                        with own:
                            meet.wait()
                            assert handles(libraries) == [own.cuda_stream] * 2
                        assert handles(libraries) == [shared.cuda_stream] * 2
                        meet.wait()
                    assert handles(libraries) == [mine.cuda_stream] * 2
                assert handles(libraries) == [None, None]
        except BaseException:
            meet.abort()
            raise

    in_threads(*[work] * 2)


@pytest.mark.parametrize("by", ["use", "stream"])
def test_blocks_that_are_left_in_the_wrong_order(gpu, libraries, by):
    gpu.runtime.cudaSetDevice(1)
    streams = [interop.new_stream(0), interop.new_stream(1), interop.new_stream(0)]
    a, b, c = streams if by == "stream" else map(interop.use, streams)
    for manager in (a, b, c):
        manager.__enter__()
    names = f"the block of {streams[0]!r} ends before that of {streams[2]!r}"
    with pytest.raises(NestingError, match=re.escape(names)) as raised:
        a.__exit__(None, None, None)
    assert "An `await` inside of `use` can cause this: pass the stream by `to()`, or use `wait_stream`" in str(
        raised.value
    )
    assert handles(libraries) == [streams[2].cuda_stream] * 2
    c.__exit__(None, None, None)
    assert handles(libraries) == [streams[1].cuda_stream] * 2
    assert gpu.runtime.cudaGetDevice()[1] == 1
    b.__exit__(None, None, None)
    assert handles(libraries) == [None, None]
    assert gpu.runtime.cudaGetDevice()[1] == 1
    for manager in (a, b, c):
        with pytest.raises(NestingError, match="was not entered in this thread, or was left before"):
            manager.__exit__(None, None, None)


@pytest.mark.parametrize("streams", ["of their own", "the same"])
@pytest.mark.parametrize("by", ["use", "stream"])
def test_two_coroutines_in_blocks_at_once(gpu, libraries, streams, by):
    first = interop.new_stream()
    second = first if streams == "the same" else interop.new_stream()
    outer = interop.new_stream()

    async def work(stream, pauses):
        with stream if by == "stream" else interop.use(stream):
            for _ in range(pauses):
                await asyncio.sleep(0)
            return handles(libraries)

    async def both():
        return await asyncio.gather(work(first, 1), work(second, 3), return_exceptions=True)

    with outer:
        error, current = asyncio.run(both())
        assert isinstance(error, NestingError)
        assert repr(first) in str(error)
        assert repr(second) in str(error)
        assert current == [second.cuda_stream] * 2  # the stream of the block that was entered last is current
        assert handles(libraries) == [outer.cuda_stream] * 2
    assert handles(libraries) == [None, None]


def test_control_two_coroutines_one_after_the_other(gpu, libraries):
    async def work(stream):
        with stream:
            return handles(libraries)

    async def both():
        return await asyncio.gather(*map(work, streams))

    streams = [interop.new_stream(), interop.new_stream()]
    assert asyncio.run(both()) == [[stream.cuda_stream] * 2 for stream in streams]


def test_a_block_that_is_never_left_ends_with_its_frame(gpu, libraries):
    outer, stream = interop.new_stream(), interop.new_stream()
    with outer:
        exit_ = stream.__exit__
        stream.__enter__()
        assert handles(libraries) == [stream.cuda_stream] * 2
        del exit_
        assert handles(libraries) == [outer.cuda_stream] * 2
    assert handles(libraries) == [None, None]


@pytest.mark.parametrize("by", ["use", "stream"])
def test_blocks_on_an_exit_stack(gpu, libraries, by):
    streams = [interop.new_stream(), interop.new_stream()]
    with contextlib.ExitStack() as stack:
        for stream in streams:
            assert stack.enter_context(stream if by == "stream" else interop.use(stream)) is stream
            assert handles(libraries) == [stream.cuda_stream] * 2
    assert handles(libraries) == [None, None]


def test_a_subclass_that_overrides_exit(gpu, libraries):
    class Stream(interop.ExternalStream):
        def __enter__(self):
            return super().__enter__()

        def __exit__(self, *error):
            super().__exit__(*error)

    stream = interop.new_stream()
    mine = Stream(stream.cuda_stream, owner=stream)
    with mine, stream, mine:
        assert handles(libraries) == [mine.cuda_stream] * 2
    assert handles(libraries) == [None, None]


def test_if_one_library_cannot_switch_back_the_others_still_do(gpu, libraries, monkeypatch):
    gpu.runtime.cudaSetDevice(1)
    block = interop.use(interop.new_stream(0))
    block.__enter__()
    monkeypatch.setattr(libraries[1], "leave", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        block.__exit__(None, None, None)
    assert handles(libraries)[0] is None
    assert gpu.runtime.cudaGetDevice()[1] == 1
    with pytest.raises(InvalidStreamError):
        interop.Event().record()  # the block has ended


def test_a_context_that_the_block_has_pushed_is_replaced_at_the_exit(gpu, libraries):
    gpu.runtime.cudaSetDevice(1)
    with interop.use(interop.new_stream(0)):
        gpu.driver.cuCtxPushCurrent(gpu.cuda.primary_context(0))
    assert gpu.runtime.cudaGetDevice()[1] == 1
    assert handles(libraries) == [None, None]


def test_a_lost_device_does_not_keep_the_libraries_switched(gpu, libraries, monkeypatch):
    block = interop.use(interop.new_stream(0))
    block.__enter__()
    from cuda.bindings import driver

    error = driver.CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED
    monkeypatch.setattr(gpu.driver, "cuCtxPushCurrent", lambda _: (error,), raising=False)
    block.__exit__(None, None, None)
    assert handles(libraries) == [None, None]


def test_a_broken_adapter_of_a_loaded_library_is_left_out_with_a_warning(gpu, libraries, monkeypatch):
    real = adapters._load

    def load(library):
        if library == "torch":
            raise ImportError(library)
        return real(library)

    torch = types.ModuleType("torch")
    torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(adapters, "_load", load)
    stream = interop.new_stream()
    with pytest.warns(RuntimeWarning, match="torch is left out"), interop.use(stream):
        assert handles(libraries) == [stream.cuda_stream] * 2


class Everything:
    """A stand-in that has every attribute, as a mock has."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


@pytest.mark.parametrize("library", ["cupy", "torch", "tvm_ffi", "warp"])
@pytest.mark.parametrize("stand_in", [types.ModuleType("empty"), Everything()], ids=["empty", "everything"])
@pytest.mark.filterwarnings("error")
def test_a_mock_in_sys_modules_is_left_alone(gpu, libraries, monkeypatch, library, stand_in):
    monkeypatch.setitem(sys.modules, library, stand_in)
    stream = interop.new_stream()
    with interop.use(stream):
        assert handles(libraries) == [stream.cuda_stream] * 2


@pytest.mark.usefixtures("registry")
def test_a_module_that_is_not_the_library_it_is_named_after(gpu, monkeypatch):
    fake = types.ModuleType("cupy")
    fake.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delitem(sys.modules, "interop.adapters.cupy", raising=False)
    stream = interop.new_stream()
    with pytest.warns(RuntimeWarning, match="cupy is left out.*AttributeError.*Is the module"):
        stream.__enter__()
    stream.__exit__(None, None, None)
    for call in (
        lambda: stream.to("cupy"),
        lambda: interop.use(stream, "cupy"),
        lambda: interop.current_stream("cupy"),
    ):
        with pytest.raises(AdapterError, match="the adapter for 'cupy' cannot be loaded: AttributeError"):
            call()
    fake.Stream = type("Stream", (), {"__module__": "cupy.cuda"})
    with pytest.raises(AdapterError, match="the adapter for 'cupy' cannot be loaded: AttributeError"):
        interop.as_stream(fake.Stream())


def test_the_default_stream_of_another_device(gpu, libraries, monkeypatch):
    legacy = interop.ExternalStream(1, 1)
    with pytest.raises(NotSupportedError, match="while another device is current"):
        legacy.to("alpha")
    with legacy:
        assert handles(libraries) == [1, 1]
        native = legacy.to("alpha")
    with pytest.raises(NotSupportedError):
        legacy.to("alpha")
    monkeypatch.setattr(libraries[0], "default_streams_have_devices", True)
    assert legacy.to("alpha") is native


def test_one_native_stream_for_each_library(gpu, libraries):
    stream = interop.new_stream()
    native = stream.to("alpha")
    assert stream.to("alpha") is native
    with stream:
        assert libraries[0].current_stream() is native
    assert interop.as_stream(native).to("alpha") is native


def test_current_stream(gpu, libraries):
    stream = interop.new_stream()
    with stream:
        assert interop.current_stream("alpha") == stream
        assert interop.current_stream("alpha").owner is libraries[0].current_stream()


def test_current_handle_is_that_of_the_current_stream(gpu, libraries):
    first, second = interop.new_stream(0), interop.new_stream(1)
    with first:
        for device in (None, 0, "cuda:0"):
            assert interop.current_handle("alpha", device) == first.cuda_stream
        with second:
            assert interop.current_handle("alpha") == second.cuda_stream
    assert gpu.cuda.current_device() == 0


def test_current_handle_asks_on_the_device(gpu, libraries, monkeypatch):
    """As for a library that has one current stream a device."""
    streams = [interop.new_stream(0), interop.new_stream(1)]
    natives = [stream.to("alpha") for stream in streams]
    monkeypatch.setattr(StandIn, "current_stream", lambda _: natives[gpu.cuda.current_device()])
    assert interop.current_handle("alpha", 1) == streams[1].cuda_stream
    assert interop.current_handle("alpha") == streams[0].cuda_stream
    for wrong in (2, -1, "cpu"):
        with pytest.raises(InvalidDeviceError, match=str(wrong)):
            interop.current_handle("alpha", wrong)


def test_an_error_of_the_library_is_not_taken_for_a_wrong_device(gpu, libraries, monkeypatch):
    interop.new_stream().to("alpha")

    def fails(_):
        raise OSError

    monkeypatch.setattr(StandIn, "current_stream", fails)
    with pytest.raises(OSError):  # noqa: PT011
        interop.current_handle("alpha", 1)


def test_no_handle_of_a_current_stream_is_0(gpu, libraries, monkeypatch):
    monkeypatch.setattr(StandIn, "current_stream", lambda self: self.type(handle=0))
    with pytest.raises(AdapterError, match="gave 0"):
        interop.current_handle("alpha")


@pytest.mark.parametrize(("raw", "handle"), [(0, 1), (1, 1), (2, 2), (0x5000, 0x5000)])
def test_current_handle_of_torch_makes_no_object(gpu, registry, monkeypatch, interop_need, raw, handle):
    interop_need("torch")
    import torch

    asked = []
    raw_of = lambda device: asked.append(device) or raw  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: pytest.fail("an object was made"))
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 7, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", raw_of, raising=False)
    assert interop.current_handle("torch") == interop.current_handle("torch", 1) == handle
    assert asked == [7, 1]


@pytest.mark.parametrize(("raw", "handle"), [(0, 1), (1, 1), (2, 2), (0x5000, 0x5000)])
def test_current_handle_of_cupy(gpu, registry, monkeypatch, interop_need, raw, handle):
    interop_need("cupy")
    import cupy

    asked = []
    stream = types.SimpleNamespace(ptr=raw)
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda device=-1: asked.append(device) or stream)
    assert interop.current_handle("cupy") == interop.current_handle("cupy", 1) == handle
    assert asked == [-1, 1]


@pytest.fixture
def looked_up(monkeypatch):
    """The library names for which an adapter was looked up."""
    names = []
    real = adapters.adapter_named
    monkeypatch.setattr(adapters, "adapter_named", lambda name: names.append(name) or real(name))
    return names


def test_a_named_library_is_looked_up_once(gpu, libraries, looked_up):
    stream = interop.new_stream()
    for _ in range(3):
        with interop.use(stream, "alpha"):
            assert interop.current_stream("alpha") == stream
    assert looked_up == ["alpha"]


def test_a_library_that_is_not_ready_when_it_is_named_is_left_alone_by_others(gpu, libraries, monkeypatch):
    stream = interop.new_stream()
    monkeypatch.setattr(libraries[0], "usable", lambda: False)
    sys.modules["beta"].__spec__ = types.SimpleNamespace(_initializing=True)
    with pytest.warns(RuntimeWarning, match="never entered"):
        interop.use(stream, "alpha", "beta")
    with interop.use(stream):
        assert handles(libraries) == [None, None]


@pytest.mark.parametrize("library", ["numba", "numba_cuda_mlir", "cuda.core", "rmm"])
def test_a_library_without_a_current_stream_says_what_to_do(gpu, library, interop_need):
    interop_need(library)
    for ask in (lambda: interop.current_stream(library), lambda: interop.use(interop.new_stream(), library)):
        with pytest.raises(NotSupportedError, match=rf"{library} has no current stream; pass `stream\.to"):
            ask()


def test_an_unknown_library(gpu):
    for ask in (lambda: interop.current_stream("cupyy"), lambda: interop.use(interop.new_stream(), "cupyy")):
        with pytest.raises(LibraryNotFoundError, match="did you mean 'cupy'"):
            ask()


def test_real_libraries_are_left_alone_by_a_simulated_stream(gpu, registry, interop_need):
    interop_need("cupy")
    assert "cupy" in sys.modules
    assert adapters.with_current_stream(simulated=True) == []


def test_events_take_the_stream_in_use(gpu, libraries):
    p, c, a = interop.new_stream(), interop.new_stream(), gpu.array([0])
    event = interop.Event()
    gpu.launch(p, lambda memory: memory.fill(1), writes=[a])
    with p:
        event.record()
    with c:
        event.wait()
    gpu.launch(c, lambda memory: memory.fill(2), writes=[a])
    for use in (event.record, event.wait):
        with pytest.raises(InvalidStreamError, match="no stream was given"):
            use()


# -- what a block orders -----------------------------------------------------------------------------------------------


class Chain:
    """Works on one array, on a stream at a time: work that is not ordered after the work before it is a race."""

    def __init__(self, gpu):
        self._launch = gpu.launch
        self._array = gpu.array([0])

    def work(self, stream):
        self._launch(stream, lambda memory: memory.fill(1), writes=[self._array])


@pytest.fixture
def chain(gpu):
    return Chain(gpu)


def of_three_kinds(stream):
    """*stream* in the ways in which ``after`` takes it, when its work was enqueued."""
    return {"stream": stream, "list": [interop.new_stream(), stream], "event": stream.record_event()}


@pytest.mark.parametrize("kind", ["stream", "list", "event"])
def test_a_block_waits_for_what_comes_before_it(gpu, libraries, chain, kind):
    other, stream = interop.new_stream(), interop.new_stream()
    chain.work(other)
    with interop.use(stream, after=of_three_kinds(other)[kind]):
        chain.work(stream)
    with interop.use(other, before=stream), pytest.raises(RaceError):  # `before` orders nothing on entry
        chain.work(other)


@pytest.mark.parametrize("several", [False, True])
def test_what_comes_after_a_block_waits_for_it(gpu, libraries, chain, several):
    stream, other, third = (interop.new_stream() for _ in range(3))
    with interop.use(stream, before=[other, third] if several else other):
        chain.work(stream)
        with pytest.raises(RaceError):
            chain.work(other)
    chain.work(other)
    with interop.use(stream, after=other):
        chain.work(stream)
    with pytest.raises(RaceError):  # `after` orders nothing on exit
        chain.work(other)


def test_by_default_a_block_orders_nothing(gpu, libraries, chain):
    other, stream = interop.new_stream(), interop.new_stream()
    libraries[0].state.stream = other.to("alpha")
    chain.work(other)
    with interop.use(stream), pytest.raises(RaceError):
        chain.work(stream)
    stream.wait_stream(other)
    with interop.use(stream):
        chain.work(stream)
    with pytest.raises(RaceError):
        chain.work(other)


@pytest.mark.parametrize("named", [(), ("alpha", "beta")])
def test_a_block_between_the_current_streams(gpu, chain, libraries, named):
    of_alpha, of_beta, stream = (interop.new_stream() for _ in range(3))
    libraries[0].state.stream, libraries[1].state.stream = of_alpha.to("alpha"), of_beta.to("beta")
    manager = interop.use(stream, *named, after="current", before="current")
    for other in (of_alpha, of_beta):
        chain.work(other)
        with manager:
            chain.work(stream)
            with pytest.raises(RaceError):
                chain.work(other)
    chain.work(of_alpha)


def test_only_the_streams_of_the_libraries_that_are_switched(gpu, chain, libraries):
    of_alpha, stream = interop.new_stream(), interop.new_stream()
    libraries[0].state.stream = libraries[1].state.stream = of_alpha.to("alpha")
    libraries[1].state.stream = interop.new_stream().to("beta")
    chain.work(of_alpha)
    with interop.use(stream, "beta", after="current"), pytest.raises(RaceError):
        chain.work(stream)


def test_the_current_streams_of_the_outer_block(gpu, chain, libraries):
    outer, inner = interop.new_stream(), interop.new_stream()
    for library in libraries:
        library.state.stream = interop.new_stream().to(library.library)
    with outer:
        chain.work(outer)
        with interop.use(inner, after="current", before="current"):
            chain.work(inner)
        chain.work(outer)


def test_the_current_streams_of_both_devices(gpu, chain, libraries, monkeypatch):
    """As for a library that has one current stream a device."""
    streams = [interop.new_stream(0), interop.new_stream(1)]
    natives = [stream.to("alpha") for stream in streams]
    monkeypatch.setattr(StandIn, "current_stream", lambda _: natives[gpu.cuda.current_device()])
    stream = interop.new_stream(1)
    for other in streams:
        chain.work(other)
        with interop.use(stream, "alpha", after="current", before="current"):
            chain.work(stream)
        chain.work(other)
        streams[1].wait_stream(other)


def test_what_comes_after_waits_after_an_exception_too(gpu, libraries, chain):
    other, stream = interop.new_stream(), interop.new_stream()
    with contextlib.suppress(KeyError), interop.use(stream, before=other):
        chain.work(stream)
        raise KeyError
    chain.work(other)


def test_the_wait_of_a_block_whose_exit_was_interrupted(gpu, libraries, chain, monkeypatch):
    other, stream = interop.new_stream(), interop.new_stream()
    real, calls = interop.ExternalStream.wait_stream, []

    def interrupted(*streams):
        calls.append(streams)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(*streams)

    monkeypatch.setattr(interop.ExternalStream, "wait_stream", interrupted)
    with pytest.raises(KeyboardInterrupt), interop.use(stream, before=other):
        chain.work(stream)
    chain.work(other)


def test_nothing_is_switched_if_the_wait_on_entry_fails(gpu, libraries):
    stream = interop.new_stream()
    with pytest.raises(UnrecordedEventError), interop.use(stream, after=interop.Event()):
        pytest.fail("entered")
    assert libraries[0].log == []


def test_all_is_put_back_if_a_wait_on_exit_fails(gpu, libraries, chain):
    stream, other, legacy = interop.new_stream(), interop.new_stream(), interop.ExternalStream(1)
    # The legacy stream cannot wait for a capture. The other stream waits, and so joins the capture.
    with pytest.raises(CaptureError, match="legacy"), interop.use(stream, before=[legacy, other]):
        gpu.runtime.cudaStreamBeginCapture(stream.cuda_stream, gpu.runtime.cudaStreamCaptureMode(0))
    assert handles(libraries) == [None, None]
    assert other.is_capturing()
    stream.wait_stream(other)
    assert not gpu.runtime.cudaStreamEndCapture(stream.cuda_stream)[0]


@pytest.mark.parametrize("where", ["after", "before"])
@pytest.mark.parametrize("wrong", ["alpha", 1.5, [None]])
def test_what_is_no_stream_is_refused_at_once(gpu, where, wrong):
    with pytest.raises(InvalidStreamError):
        interop.use(interop.new_stream(), **{where: wrong})


def test_an_event_cannot_wait_for_a_block(gpu):
    with pytest.raises(InvalidStreamError, match="Event"):
        interop.use(interop.new_stream(), before=interop.Event())


def test_streams_of_another_simulation_are_refused(gpu):
    with sim.simulate():
        other = interop.new_stream()
    for where in ("after", "before"):
        with pytest.raises(NotSupportedError, match="cannot be ordered"):
            interop.use(interop.new_stream(), **{where: other})
