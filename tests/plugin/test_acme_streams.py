"""All that a stranger's package has to write to be tested as interop's own libraries are."""

import acme_streams

from interop.adapters.base import LEGACY
from interop.testing.conformance import AdapterConformance


class TestAcmeStreams(AdapterConformance):
    library = "acme_streams"
    only_addresses = True  # so the simulator will do where there is no GPU

    def default_streams(self):
        return {LEGACY: acme_streams.Stream(0)}
