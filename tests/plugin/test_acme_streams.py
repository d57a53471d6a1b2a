"""The conformance suite of interop, on acme_streams."""

import acme_streams

from interop.adapters.base import LEGACY
from interop.testing.conformance import AdapterConformance


class TestAcmeStreams(AdapterConformance):
    library = "acme_streams"
    only_addresses = True  # so the tests can run on the simulator

    def default_streams(self):
        return {LEGACY: acme_streams.Stream(0)}
