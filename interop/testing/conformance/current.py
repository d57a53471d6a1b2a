"""Tests of the current stream, for a library that has one."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

import interop
from interop import _cuda
from interop.adapters.base import Adapter
from interop.errors import NotSupportedError
from interop.testing.conformance.library import LibraryUnderTest
from interop.testing.conformance.stand_ins import Owner, devices, in_context_of
from interop.testing.host_free import assert_host_free


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
        """Of the library's own streams and of others. Afterwards the stream from before is current again."""
        if current is None:
            return
        before = interop.as_stream(current.current_stream())
        for stream in (self.new_stream(), interop.new_stream()):
            with interop.use(stream, self.library) as used:
                assert interop.current_stream(self.library) == used
                assert interop.as_stream(current.current_stream()) == used
            assert interop.as_stream(current.current_stream()) == before

    def test_use_is_nested(self, current: Adapter | None) -> None:
        """Also if an exception ends the inner block."""
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

    def test_what_was_can_be_put_back_twice_and_without_need(self, current: Adapter | None) -> None:
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

    def test_use_is_for_the_calling_thread(self, current: Adapter | None) -> None:
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

    def test_the_librarys_own_blocks_come_back(self, current: Adapter | None) -> None:
        """After a ``with`` block over the library's own stream, the stream of ``use`` is current again."""
        if current is None:
            return
        outer, inner = interop.new_stream(), self.new_stream()
        with interop.use(outer, self.library):
            if hasattr(type(inner), "__enter__"):
                with inner:  # type: ignore[attr-defined]
                    assert interop.current_stream(self.library) == interop.as_stream(inner)
            assert interop.current_stream(self.library) == outer

    def test_the_very_object_is_current_again(self, current: Adapter | None) -> None:
        """If the library returns one object each time: another object for the same stream may not keep it alive."""
        if current is None:
            return
        with interop.use(self.new_stream(), self.library):
            before = current.current_stream()
            if current.current_stream() is before:
                with interop.use(interop.new_stream(), self.library):
                    pass
                assert current.current_stream() is before

    def test_what_is_current_keeps_its_owner_alive(self, current: Adapter | None) -> None:
        """If the adapter says that the library's object does so."""
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

    def test_nothing_waits_where_a_stream_is_made_current(self, current: Adapter | None) -> None:
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

    def test_streams_of_every_device_are_made_current(self, current: Adapter | None) -> None:
        """The current device stays the same, in the block and after it."""
        if current is None:
            return
        cuda = _cuda.active()
        for device in devices():
            stream = interop.new_stream(device)
            native = stream.to(self.library)
            with in_context_of(stream):
                before = current.before(native)
                assert cuda.current_device() == device
                current.enter(native, before)
                assert cuda.current_device() == device
                assert current.stream_handle(current.current_stream()) == stream.cuda_stream
                assert cuda.current_device() == device
                current.leave(before)
                assert cuda.current_device() == device

    def test_use_switches_every_loaded_library(self, current: Adapter | None) -> None:
        """Also this library, without its name. A library without a current stream is left out."""
        stream = interop.new_stream()
        with interop.use(stream):
            if current is not None:
                assert interop.current_stream(self.library) == stream
