"""Tests of the current stream, for a library that has one."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

import interop
from interop import _cuda
from interop.adapters.base import Adapter
from interop.errors import NotSupportedError
from interop.testing.conformance.library import LibraryUnderTest
from interop.testing.conformance.stand_ins import Owner, devices, in_context_of
from interop.testing.host_free import assert_host_free


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Collect first, and not in the block.

    Warp leaves the context of an object current when the object is freed: ``always_restore`` is false in the
    ``ContextGuard`` of its ``warp/native/cuda_util.h``. So garbage of another device, collected between two assertions,
    would change the current device.
    """
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class CurrentStreamTests(LibraryUnderTest):
    """Tests of the library's current stream."""

    @pytest.fixture
    def current(self, adapter: Adapter, interop_need: Callable[..., None]) -> Adapter | None:
        """The adapter, if the library has a current stream. Otherwise None; then interop refuses, with a message."""
        if not adapter.has_current_stream:
            stream = self.new_stream()
            for ask in (lambda: interop.current_stream(self.library), lambda: interop.use(stream, self.library)):
                with pytest.raises(NotSupportedError, match="no current stream"):
                    ask()
            return None
        if not adapter.usable():
            interop_need("gpu")
            pytest.fail(f"{self.library}, as it is installed, cannot use the GPU of this machine")
        return adapter

    def test_use_makes_a_stream_current(self, current: Adapter | None) -> None:
        """The library's own streams and others become current. After the block, the stream from before is again."""
        if current is None:
            return
        before = interop.as_stream(current.current_stream())
        for stream in (self.new_stream(), interop.new_stream()):
            with interop.use(stream, self.library) as used:
                assert interop.current_stream(self.library) == used
                assert interop.as_stream(current.current_stream()) == used
            assert interop.as_stream(current.current_stream()) == before

    def test_use_can_be_nested(self, current: Adapter | None) -> None:
        """The outer stream is current again after the inner block, also if an exception ends it."""
        if current is None:
            return
        before = interop.as_stream(current.current_stream())
        outer, inner = interop.new_stream(), interop.new_stream()
        with interop.use(outer, self.library):
            with contextlib.suppress(KeyError), interop.use(inner, self.library):
                assert interop.current_stream(self.library) == inner
                raise KeyError
            assert interop.current_stream(self.library) == outer
            with interop.use(outer, self.library):
                pass
            assert interop.current_stream(self.library) == outer
        assert interop.as_stream(current.current_stream()) == before

    def test_leave_may_be_called_twice_and_without_need(self, current: Adapter | None) -> None:
        """If a signal handler raises inside `enter` or `leave`, interop calls `leave` once more."""
        if current is None:
            return
        outer = interop.new_stream()
        with interop.use(outer, self.library):
            native = interop.new_stream().to(self.library)
            current.leave(current.before(native))
            assert interop.as_stream(current.current_stream()) == outer
            before = current.before(native)
            current.enter(native, before)
            for _ in range(2):
                current.leave(before)
                assert interop.as_stream(current.current_stream()) == outer

    def test_use_affects_the_calling_thread_only(self, current: Adapter | None) -> None:
        """Other threads keep their current stream, unless the library has one for all threads."""
        if current is None:
            return
        stream, seen = interop.new_stream(), list[int | None]()

        def look() -> None:
            seen.append(current.stream_handle(current.current_stream()))

        with interop.use(stream, self.library):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert len(seen) == 1
        assert (seen[0] == stream.cuda_stream) is self.switches_all_threads

    def test_the_librarys_own_block_returns_to_the_stream_of_use(self, current: Adapter | None) -> None:
        """After a ``with`` block over the library's own stream, the stream of ``use`` is current again."""
        if current is None:
            return
        outer, inner = interop.new_stream(), self.new_stream()
        with interop.use(outer, self.library):
            if hasattr(type(inner), "__enter__"):
                with inner:  # type: ignore[attr-defined]
                    assert interop.current_stream(self.library) == interop.as_stream(inner)
            assert interop.current_stream(self.library) == outer

    def test_the_same_object_is_current_again(self, current: Adapter | None) -> None:
        """Where the library returns one object each time, another one for the same stream may not keep it alive."""
        if current is None:
            return
        with interop.use(self.new_stream(), self.library):
            before = current.current_stream()
            if current.current_stream() is before:
                with interop.use(interop.new_stream(), self.library):
                    pass
                assert current.current_stream() is before

    def test_a_current_stream_keeps_its_owner_alive(self, current: Adapter | None) -> None:
        """Where `keeps_alive` says that the library's object keeps its owner alive."""
        if current is None:
            return
        stream = interop.new_stream()
        owner = Owner(stream.cuda_stream)
        alive = weakref.ref(owner)
        with interop.use(owner, self.library):
            native = current.current_stream()
        del owner
        gc.collect()
        assert alive() is not None or not current.keeps_alive(native)

    def test_use_does_not_block_the_host(self, current: Adapter | None) -> None:
        """On entry and exit, the host waits for no stream, and not for the device."""
        if current is None:
            return
        stream, before = interop.new_stream(), interop.as_stream(current.current_stream())

        def switch() -> None:
            with interop.use(stream, self.library):
                current.current_stream()

        switch()  # so that what is loaded at the first use is loaded
        with assert_host_free(stream, before):
            switch()

    def test_use_works_on_every_device(self, current: Adapter | None) -> None:
        """The current device stays the same, in the block and after it."""
        if current is None:
            return
        cuda = _cuda.active()
        for device in devices():
            stream = interop.new_stream(device)
            native = stream.to(self.library)
            with in_context_of(stream), _without_collector():
                before = current.before(native)
                assert cuda.current_device() == device
                current.enter(native, before)
                assert cuda.current_device() == device
                assert current.stream_handle(current.current_stream()) == stream.cuda_stream
                assert cuda.current_device() == device
                current.leave(before)
                assert cuda.current_device() == device

    def test_use_switches_every_loaded_library(self, current: Adapter | None) -> None:
        """`use` without names switches this library too, unless it has no current stream."""
        stream = interop.new_stream()
        with interop.use(stream):
            if current is not None:
                assert interop.current_stream(self.library) == stream
