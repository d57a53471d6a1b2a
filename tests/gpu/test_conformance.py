"""The conformance suite, on every library of the table that has streams."""

import pytest

from interop.adapters.table import TABLE
from interop.testing.conformance import AdapterConformance
from tests.default_streams import DEFAULT_STREAMS
from tests.gpu.lab import STREAMS
from tests.gpu.test_arrays import PRODUCERS, address_of
from tests.gpu.test_events import EVENTS

pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


class Real(AdapterConformance):
    """The suite with streams, events and arrays that the library itself makes."""

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


SWITCH_ALL_THREADS = {"warp"}


def suite(library: str) -> type[Real]:
    members = {"library": library, "switches_all_threads": library in SWITCH_ALL_THREADS, "__module__": __name__}
    return type(f"Test{library.title().replace('.', '')}", (Real,), members)


globals().update((made.__name__, made) for made in map(suite, STREAMS) if made.library in TABLE)
