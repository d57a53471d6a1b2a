"""The library under test: what a subclass sets and overrides, and where the tests run."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

import interop
from interop import _cuda
from interop.adapters import adapter_named
from interop.adapters.base import Adapter
from interop.errors import NoDeviceError
from interop.testing.poison import memory_of


class LibraryUnderTest:
    """The library, its adapter, and new objects of the library's own types: what all the tests share."""

    library: ClassVar[str]
    only_addresses: ClassVar[bool] = False
    switches_all_threads: ClassVar[bool] = False

    # -- what a subclass may override ----------------------------------------------------------------------------------

    def new_stream(self) -> object:
        """A new non-blocking stream of the library's own type; by default, one that interop made and converted."""
        return interop.new_stream().to(self.library)

    def default_streams(self) -> Mapping[int, object]:
        """The library's own objects for the default streams; the keys are ``LEGACY`` and ``PER_THREAD``.

        Both constants are in :mod:`interop.adapters.base`. Include the library's null stream, whose handle is 0. By
        default there are none, and one test is skipped.
        """
        return {}

    def new_event(self) -> object:
        """A new event of the library's own type. Override this if the adapter takes events."""
        return None

    def new_array(self) -> Any:  # noqa: ANN401  (the library's own type)
        """A new array of the library's own type, on the current device. Override this if the adapter takes arrays."""
        return None

    def address_of(self, array: Any) -> int:  # noqa: ANN401  (the library's own type)
        """The address of an array's memory. By default, ``__cuda_array_interface__`` or ``__dlpack__`` tells."""
        return memory_of(array, writes=False)[0]

    def made(self, hook: str, what: str) -> object:
        """What the method *hook* returns; the test fails if a subclass has not overridden it."""
        made = getattr(self, hook)()
        assert made is not None, f"the adapter for {self.library} takes {what}: override {hook}() to have them tested"
        return made

    # -- where the tests run -------------------------------------------------------------------------------------------

    @pytest.fixture
    def adapter(self, interop_need: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
        """The adapter. The test that asks for it runs on a GPU, or in a simulation."""
        interop_need(self.library)
        adapter = adapter_named(self.library)
        with contextlib.ExitStack() as simulation:
            if self.only_addresses and not gpu_is_there():
                simulation.enter_context(interop.sim.simulate(devices=2))
                monkeypatch.setattr(adapter, "simulated", True)
            else:
                interop_need("gpu")
            yield adapter

    @pytest.fixture(autouse=True)
    def _device_stays(self, adapter: Adapter) -> Iterator[None]:  # noqa: ARG002  (a simulation begins first)
        """A test fails if it leaves another device current than before."""
        before = _cuda.active().current_device()
        yield
        assert _cuda.active().current_device() == before


def gpu_is_there() -> bool:
    """Whether this machine has a CUDA device."""
    try:
        return _cuda.GPU.device_count() > 0
    except NoDeviceError:
        return False
