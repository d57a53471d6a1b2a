"""A package of its own that adds its library: ``tests/plugin``, installed as any other; and plugins that are wrong."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

import interop
from interop import adapters, as_stream, current_stream
from interop.adapters.base import Source
from interop.errors import AdapterError
from tests.threads import in_thread

pytestmark = pytest.mark.needs("acme_streams")

NAME = "acme_streams"
GOOD = "acme_streams.interop_adapter:AcmeAdapter"


@pytest.fixture
def plugins(registry, monkeypatch):
    """Put other entry points in the place of those installed: a mapping of libraries to values, by package."""

    def replace(library, **values):
        points = [
            EntryPoint(library, value, "interop.adapters")._for(SimpleNamespace(name=package.replace("_", "-")))
            for package, value in values.items()
        ]
        monkeypatch.setattr(adapters, "_plugins", lambda: {library: points})

    return replace


def lent_by(library):
    """An object whose class says that it is the library's."""
    return type("Stream", (), {"__module__": f"{library}.streams"})()


def test_borrows_its_streams(address):
    import acme_streams

    theirs = acme_streams.Stream(address)
    stream = as_stream(theirs)
    assert (stream.cuda_stream, stream.owner) == (address, theirs)
    assert repr(stream) == f"<interop.ExternalStream {address:#x} of acme_streams>"
    assert as_stream(type("Mine", (acme_streams.Stream,), {})(address)) == stream
    assert as_stream(acme_streams.Stream(0)).cuda_stream == 1


def test_adapter_is_imported_when_an_object_turns_up(python):
    code = """
import json, sys
import interop, acme_streams
loaded = []
def look():
    loaded.append("acme_streams.interop_adapter" in sys.modules)
look()
interop.as_stream(1)
look()
try:
    interop.as_stream("no stream")
except interop.errors.InvalidStreamError:
    look()
assert "acme_streams" in interop.adapters.known()
look()
handle = interop.as_stream(acme_streams.Stream(2)).cuda_stream
look()
print(json.dumps([loaded, handle]))
"""
    assert python(code) == [[False, False, False, False, True], 2]


def test_its_name_imports_the_library_and_its_adapter(python):
    code = """
import json, sys, interop
before = "acme_streams" in sys.modules
handle = interop.current_stream("acme_streams").cuda_stream
print(json.dumps([before, handle, "acme_streams.interop_adapter" in sys.modules]))
"""
    assert python(code) == [False, 1, True]


def test_current_stream_of_each_thread(address):
    import acme_streams

    before = acme_streams.get_stream()
    acme_streams.set_stream(acme_streams.Stream(address))
    try:
        elsewhere = in_thread(lambda: current_stream(NAME))
        assert current_stream(NAME) == as_stream(address)
        assert elsewhere.cuda_stream == 1
    finally:
        acme_streams.set_stream(before)


def test_is_switched_with_the_others():
    import acme_streams

    adapter = adapters.adapter_named(NAME)
    assert adapter in adapters.with_current_stream(simulated=False)
    before, other = acme_streams.get_stream(), acme_streams.Stream(2)
    current = adapter.before(other)
    adapter.enter(other, current)
    assert acme_streams.get_stream() is other
    adapter.leave(current)
    assert acme_streams.get_stream() is before


def test_makes_streams_that_keep_their_source(address):
    source = Source(address, 0, object())
    theirs = adapters.adapter_named(NAME).make_stream(source)
    assert (theirs.raw, theirs.keep_alive) == (address, source)


def test_cannot_be_registered_beside():
    adapter = adapters.adapter_named(NAME)
    with pytest.raises(AdapterError, match="'acme_streams' has an adapter already"):
        interop.register(NAME, adapter)


def by_object():
    return as_stream(lent_by(NAME))


def by_name():
    return current_stream(NAME)


@pytest.mark.parametrize("ask", [by_object, by_name])
class TestWrong:
    def fails(self, ask, text):
        for _ in range(2):  # asking again says the same again
            with pytest.raises(AdapterError, match=text):
                ask()
        assert NAME not in adapters._registered

    def test_two_for_one_library(self, ask, plugins):
        plugins(NAME, acme_one=GOOD, acme_two="two.adapter:Adapter")
        self.fails(ask, f"2 adapters claim '{NAME}': {GOOD} of acme-one, two.adapter:Adapter of acme-two")

    @pytest.mark.parametrize(
        "value",
        [
            "collections:OrderedDict",
            "acme_streams:Stream",  # a class that wants an argument
            "acme_streams:get_stream",
            "acme_streams",
        ],
    )
    def test_no_adapter(self, ask, plugins, value):
        plugins(NAME, acme_one=value)
        self.fails(ask, f"{value} of acme-one.* not a subclass of")

    @pytest.mark.parametrize("value", ["acme_streams:nothing", "acme_streams.nowhere:Adapter", "nowhere:Adapter"])
    def test_nothing_there(self, ask, plugins, value):
        plugins(NAME, acme_one=value)
        self.fails(ask, f"{value} of acme-one")

    def test_adapter_of_another_library(self, ask, plugins):
        plugins(NAME, acme_one="interop.adapters.jax:JaxAdapter")
        self.fails(ask, "'acme_streams'.*'jax'|'jax'.*'acme_streams'")


def test_claims_a_built_in_library(plugins):
    plugins("cupy", acme_one=GOOD)
    with pytest.raises(AdapterError, match=f"2 adapters claim 'cupy': {GOOD} of acme-one, interop itself"):
        as_stream(lent_by("cupy"))
