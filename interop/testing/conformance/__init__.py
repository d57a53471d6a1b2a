"""Tests for adapters to inherit. They test what interop promises of a library, on the library's own objects.

They need pytest, and NumPy for the simulator. A package with an adapter needs only this in its tests::

    from interop.testing.conformance import AdapterConformance

    class TestMyLibrary(AdapterConformance):
        library = "my_library"

The tests ask the adapter what the library has: streams, events, a current stream, arrays. If the library lacks one of
these, they test that interop refuses it with a message.
"""

from interop.testing.conformance.arrays import ArrayTests
from interop.testing.conformance.events import EventTests
from interop.testing.conformance.streams import StreamTests

__all__ = ["AdapterConformance"]


class AdapterConformance(StreamTests, EventTests, ArrayTests):
    """The tests of one adapter. Derive a class from this one, with a name that pytest collects.

    Set :attr:`library`, and override :meth:`new_event`, :meth:`new_array` and :meth:`default_streams` for what the
    library has.

    The tests need a GPU, and are skipped without one. With ``--interop-require=gpu`` they fail instead. With
    :attr:`only_addresses`, they run on the simulator where there is no GPU.

    Attributes:
        library: the library's import path, by which interop finds the adapter.
        only_addresses: whether the library's objects only hold addresses, and never call CUDA with them. The simulator
            can then take the place of a GPU.
        switches_all_threads: whether all threads share one current stream per device. By default, each thread has its
            own.
    """
