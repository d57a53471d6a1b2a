"""The suite that third parties inherit, on all of our own libraries that have streams."""

import pytest

from interop.testing.conformance import AdapterConformance
from tests.default_streams import DEFAULT_STREAMS
from tests.gpu.lab import STREAMS
from tests.gpu.test_arrays import PRODUCERS, address_of
from tests.gpu.test_events import EVENTS

pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


class Real(AdapterConformance):
    """Streams and arrays as the library makes them itself."""

    def new_stream(self):
        return STREAMS[self.library]()

    def default_streams(self):
        return DEFAULT_STREAMS[self.library]()

    def new_event(self):
        return EVENTS[self.library]()

    def new_array(self):
        return PRODUCERS[self.library](None)

    def address_of(self, array):
        return address_of(array)


class TestCupy(Real):
    library = "cupy"


class TestTorch(Real):
    library = "torch"


class TestNumba(Real):
    library = "numba"


class TestCudaCore(Real):
    library = "cuda.core"


class TestRmm(Real):
    library = "rmm"


class TestWarp(Real):
    library = "warp"
    switches_all_threads = True
