"""Names of streams: given, kept, forgotten, and what reports call a stream without one."""

import gc
import threading
import weakref

import pytest

import interop
from interop._core import names
from interop._show.callsite import assigned
from interop.adapters.base import Adapter
from interop.errors import RaceError
from interop.testing import assert_ordered
from tests.threads import in_thread


@pytest.fixture
def gpu():
    with interop.sim.simulate(devices=2) as gpu:
        yield gpu


class Holder:
    """A stream of no library that interop knows, which keeps the CUDA stream alive."""

    def __init__(self, of):
        self.of = of

    def __cuda_stream__(self):
        return self.of.__cuda_stream__()


class Pointers(Adapter):
    """A library whose streams are only addresses."""

    library = "acme"
    simulated = True
    streams_stay_the_same = True

    def stream_handle(self, stream):
        return stream.pointer

    def keeps_alive(self, _stream):
        return False


class Pointer:
    __module__ = "acme"

    def __init__(self, of):
        self.pointer = of.__cuda_stream__()[1]


# -- given names ---------------------------------------------------------------------------------------------------


def test_a_stream_has_the_name_that_it_was_made_with(gpu):
    stream = interop.new_stream(name="copies")
    assert stream.name == "copies"
    assert repr(stream) == "<SIMULATED interop.ExternalStream 'copies'>"
    assert interop.new_stream().name == ""


def test_a_stream_has_the_name_that_it_was_borrowed_with(gpu):
    owner = Holder(gpu.stream())
    assert interop.as_stream(owner).name == ""
    assert interop.as_stream(owner, name="copies").name == "copies"
    assert interop.as_stream(owner, 0, name="kernels").name == "kernels"
    assert interop.as_stream(owner).name == "kernels"


def test_a_simulated_stream_has_its_own_name_until_it_is_given_another(gpu):
    theirs = gpu.stream("copies")
    assert interop.as_stream(theirs).name == "copies"
    assert interop.as_stream(theirs, name="kernels").name == "kernels"


def test_the_simulator_uses_the_name(gpu):
    a, b = interop.new_stream(name="copies"), interop.as_stream(gpu.stream("before"), name="kernels")
    memory = gpu.array([0.0])
    gpu.launch(a, lambda _: None, writes=[memory])
    with pytest.raises(RaceError, match="on copies") as caught:
        gpu.launch(b, lambda _: None, writes=[memory])
    assert "interop.as_stream(kernels).wait_stream(copies)" in str(caught.value)
    gpu.races.clear()


def test_a_default_stream_can_have_a_name(gpu):
    named = interop.as_stream(1, 1, name="old")
    assert repr(named) == "<SIMULATED interop.ExternalStream 'old' on device 1>"
    assert interop.as_stream(1, 0).name == ""
    assert "legacy default" in repr(interop.as_stream(1, 0))


def test_a_proof_names_the_streams(gpu):
    producer, consumer = interop.new_stream(name="copies"), interop.new_stream(name="kernels")
    match = r"ExternalStream 'kernels'.* does not wait for .*ExternalStream 'copies'"
    with pytest.raises(AssertionError, match=match), assert_ordered(producer, consumer):
        pass


def test_facts_have_the_name_and_the_address(gpu):
    stream = interop.new_stream(name="copies")
    assert f"copies ({stream.cuda_stream:#x})" in stream._repr_html_()


@pytest.mark.parametrize(
    ("name", "error"),
    [(b"copies", TypeError), (7, TypeError), (True, TypeError), ("", ValueError), ("  ", ValueError)]
    + [(f"two{end}lines", ValueError) for end in ("\n", "\r", "\v", "\u2028", "\0", "\x1b", "\ud800")],
    ids=ascii,
)
def test_a_bad_name_changes_nothing(gpu, name, error):
    owner, before = gpu.stream("before"), len(gpu._machine.streams)
    for call in (lambda: interop.new_stream(name=name), lambda: interop.as_stream(owner, name=name)):
        with pytest.raises(error, match="the name of a stream"):
            call()
    assert len(gpu._machine.streams) == before
    assert interop.as_stream(owner).name == "before"


def test_a_name_is_a_plain_str(gpu):
    class Mine(str):
        __slots__ = ()

        def __str__(self):
            raise AssertionError

    assert type(interop.new_stream(name=Mine("copies")).name) is str


# -- how long a name is kept ---------------------------------------------------------------------------------------


def test_a_stream_that_is_borrowed_again_keeps_its_name(gpu):
    stream = interop.new_stream(name="copies")
    for other in (Holder(stream), stream.cuda_stream):
        assert interop.as_stream(other).name == "copies"
    holder = Holder(stream)
    del stream  # the holder keeps the stream, and the stream its owner
    assert interop.as_stream(holder).name == "copies"
    holder = Holder(interop.new_stream())
    interop.as_stream(holder.of.cuda_stream)
    interop.as_stream(holder, name="kernels")
    assert holder.of.name == "kernels"


def test_a_name_is_kept_though_another_object_of_the_stream_goes(gpu):
    stream = interop.new_stream(name="copies")
    interop.as_stream(Holder(stream), name="kernels")
    gc.collect()
    assert stream.name == "kernels"


def reuse(gpu, handle):
    """A new foreign stream at the address of one that was destroyed."""
    streams = []
    while not streams or streams[-1].__cuda_stream__()[1] != handle:
        streams.append(gpu.stream())
        assert len(streams) < 100
    return Holder(streams[-1])


def test_the_next_stream_at_an_address_has_no_name(gpu):
    theirs = gpu.stream()
    handle = theirs.__cuda_stream__()[1]
    borrowed = interop.as_stream(Holder(theirs), name="copies")
    assert interop.as_stream(handle).name == "copies"
    del theirs, borrowed
    gc.collect()
    later = reuse(gpu, handle)
    assert interop.as_stream(handle).name == interop.as_stream(later).name == ""


@pytest.mark.parametrize("ours", [True, False])
def test_the_next_stream_at_an_address_that_was_named_has_no_name(gpu, ours):
    theirs = gpu.stream()
    handle = theirs.__cuda_stream__()[1]
    stale = interop.as_stream(handle, name="copies")  # nothing keeps the CUDA stream alive
    assert stale.name == interop.as_stream(handle).name == interop.as_stream(Holder(theirs)).name == "copies"
    del theirs
    gc.collect()
    later = interop.new_stream() if ours else reuse(gpu, handle)
    assert later.__cuda_stream__()[1] == handle == stale.cuda_stream
    assert interop.as_stream(handle).name == interop.as_stream(later).name == ""


def test_an_address_that_was_named_is_asked_for_its_number_but_not_in_a_capture(gpu):
    theirs = gpu.stream()
    handle = theirs.__cuda_stream__()[1]
    gpu.runtime.cudaStreamBeginCapture(handle, 2)
    named = interop.as_stream(handle, name="copies")
    assert named.name == "copies"
    assert interop.as_stream(handle).name == ""  # it may be another stream
    error, _ = gpu.runtime.cudaStreamEndCapture(handle)
    assert not error


def test_an_object_that_holds_an_address_keeps_the_name_that_it_was_given(gpu, add_library):
    add_library(Pointers())
    theirs = gpu.stream()
    pointer, before = Pointer(theirs), Pointer(theirs)
    assert interop.as_stream(before).name == ""
    gpu.runtime.cudaStreamBeginCapture(pointer.pointer, 2)  # so that the number is not known
    assert interop.as_stream(pointer, name="copies").name == interop.as_stream(pointer).name == "copies"
    assert interop.as_stream(Pointer(theirs)).name == ""
    gpu.runtime.cudaStreamEndCapture(pointer.pointer)
    assert interop.as_stream(pointer, name="kernels").name == interop.as_stream(Pointer(theirs)).name == "kernels"
    assert labels(interop.as_stream(before)) == ["acme's first stream"]  # its number is not known


def test_names_do_not_add_up(gpu):
    before = len(names._owned) + len(names.addresses)
    theirs = gpu.stream()
    for i in range(100):
        interop.new_stream(name=f"copies {i}")
        interop.as_stream(theirs.__cuda_stream__()[1], name=f"kernels {i}")
    gc.collect()
    assert len(names._owned) + len(names.addresses) == before


def test_a_late_farewell_takes_no_name_of_the_next_stream(gpu):
    """Another thread may make a stream at the address before the weak reference of the last one is told."""
    stream = interop.new_stream(name="copies")
    key = names.identity_of(stream)
    old = names._owned[key].life.__callback__
    names._remember(names._owned, key, stream.owner, "kernels")
    old(weakref.ref(stream))
    assert stream.name == "kernels"


def test_names_in_threads(gpu):
    made, errors = [], []

    def make(number):
        try:
            for _ in range(100):
                stream = interop.new_stream(name=f"of {number}")
                assert stream.name == interop.as_stream(stream.cuda_stream).name == f"of {number}"
            made.append(stream)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(stream.name for stream in made) == [f"of {number}" for number in range(4)]


def test_a_per_thread_default_stream_has_its_name_in_its_thread(gpu):
    mine = interop.as_stream(2, name="mine")
    assert interop.as_stream(2).name == mine.name == "mine"
    assert in_thread(lambda: interop.as_stream(2).name) == ""


# -- names in reports ----------------------------------------------------------------------------------------------


def labels(*streams):
    """What a ledger and a timeline call the streams."""
    labels = names.Labels()
    found = [labels.of(interop.as_stream(stream)) for stream in streams]
    assert found == [labels.of(interop.as_stream(stream)) for stream in streams], "another label the second time"
    return found


def test_the_variable_stands_for_the_name(gpu):
    copies = interop.new_stream()
    spread = interop.new_stream(
        priority=-1,
    )
    assert labels(copies, spread) == ["copies", "spread"]


def test_a_name_counts_more_than_the_variable(gpu):
    copies = interop.new_stream(name="kernels")
    assert labels(copies) == ["kernels"]


def test_two_streams_of_one_variable_are_told_apart(gpu):
    streams = []
    for _ in range(2):
        stream = interop.new_stream()
        streams.append(stream)
    assert labels(*streams) == ["stream", f"stream {streams[1].cuda_stream:#x}"]


def test_where_the_variable_is_not_certain_it_is_the_number(gpu):
    a, b = (interop.new_stream() for _ in "ab")
    c = d = interop.new_stream()
    e = [interop.new_stream()]
    (f,) = map(interop.new_stream, [0])
    g = interop.as_stream(interop.new_stream())
    h = Holder(interop.new_stream()).of
    assert c is d
    words = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
    assert labels(a, b, c, *e, f, g, h) == [f"interop's {word} stream" for word in words]
    many = [interop.new_stream() for _ in range(12)]
    assert labels(*many)[9:] == ["interop's tenth stream", "interop's stream number 11", "interop's stream number 12"]


def test_the_address_is_the_last_resort(gpu):
    theirs = gpu.stream()
    handle = theirs.__cuda_stream__()[1]
    assert labels(handle) == [f"stream {handle:#x}"]


def test_the_next_stream_at_an_address_gets_a_label_of_its_own(gpu):
    report = names.Labels()
    first = interop.new_stream(name="copies")
    handle, number = first.cuda_stream, first.stream_id
    assert report.of(first) == "copies"
    del first
    later = interop.new_stream(name="kernels")
    assert (later.cuda_stream, later.stream_id != number) == (handle, True)
    assert report.of(later) == "kernels"
    other = interop.new_stream(name="copies")
    assert report.of(other) == "copies"  # the first one is gone
    assert len(report._labels) == 2


FORMS = {
    "x = new_stream()": "x",
    "x = interop.new_stream(0, priority=0)": "x",
    "x: object = new_stream()": "x",
    "global y; y = new_stream()": "y",
    "x = new_stream(); y = 1": "x",
    "x = new_stream(); y = new_stream()": "x y",
    "x, y = new_stream(), new_stream()": "x y",
    "x, y = new_stream(), interop.new_stream(0, priority=int('1'))": "x y",
    "x, y, z = new_stream(), new_stream(), new_stream()": "x y z",
    "a, b, c, d, e = new_stream(), other(), new_stream(*(), **{}), [].copy(), new_stream()": "a - c e",
    "[x, y] = (new_stream(), new_stream())": "x y",
    "global x, y; x, y = new_stream(), new_stream()": "x y",
    "x = 1, new_stream()": "",
    "x = y, z = new_stream(), new_stream()": "- -",
    "x, *y = new_stream(), new_stream()": "- -",
    "x, y = {1: new_stream(), 2: new_stream()}": "- -",
    "x, y = (new_stream(), new_stream())[::-1]": "- -",
    "x, y = new_stream().owner, new_stream()": "- y",
    "x, y = new_stream() and 1, new_stream()": "- y",
    "x, y = id(new_stream()), new_stream()": "- y",
    "x, y = new_stream(), id(new_stream())": "x -",
    "x, y = new_stream() if box else other(), new_stream() if box else new_stream()": "- y",
    "box.x, y = new_stream(), new_stream()": "- -",
    "(x,), y = [new_stream()], new_stream()": "- -",
    "x, y = min([1], key=new_stream), new_stream()": "- y",
    "x = min([1], key=new_stream)": "",
    "x = [*map(new_stream, [0])][0]": "",
    "x = y = new_stream()": "",
    "x = [new_stream()]": "",
    "x = [new_stream() for _ in '1']": "",
    "x = list(map(new_stream, [0]))": "",
    "x = new_stream(int(0))": "x",
    "x = other()": "",
    "box.x = new_stream()": "",
    "box['x'] = new_stream()": "",
    "new_stream()": "",
    "use(new_stream())": "",
    "x = yield new_stream()": "",
    "with new_stream() as x: pass": "",
    "(x := new_stream())": "",
}


@pytest.mark.parametrize("wide", [False, True], ids=["few names", "many names"])
@pytest.mark.parametrize(("line", "expected"), FORMS.items(), ids=FORMS)
def test_which_assignments_are_certain(gpu, line, expected, wide):
    """With many names, the instructions that store have an argument of more than a byte."""
    import sys

    calls = []

    def new_stream(*_args, **_named):
        caller = sys._getframe(1)
        calls.append((caller.f_code, caller.f_lasti))
        return interop.ExternalStream(1)

    names_before = "\n".join(f"    name{i} = {i}" for i in range(300 if wide else 0))
    program = f"def run():\n{names_before}\n    {line}\n"
    module = type(sys)("interop")
    module.new_stream = new_stream
    space = {"new_stream": new_stream, "interop": module, "other": new_stream, "use": id, "box": Box()}
    exec(program, space)
    list(space["run"]() or ())
    assert [assigned(*call, "new_stream") or "-" for call in calls] == (expected or "-").split()


class Box(dict):
    """Takes attributes and items."""


def test_a_ledger_names_streams(gpu):
    (unnamed,), kernels = [interop.new_stream()], interop.new_stream(name="kernels")
    borrowed = interop.as_stream(gpu.stream("theirs"))
    memory = gpu.array([0.0])
    with interop.ordering.check(raises=False) as ledger:
        for stream in (unnamed, kernels, borrowed):
            ledger.writes(memory, stream)
    assert {party.stream for race in ledger.races for party in (race.earlier, race.later)} == {
        "interop's first stream",
        "kernels",
        "theirs",
    }


def test_a_timeline_names_its_lanes(gpu):
    copies = interop.new_stream()
    (a,), b = [interop.new_stream()], interop.new_stream(name="kernels")
    with interop.Timeline() as timeline:
        for stream in (copies, a, b, interop.ExternalStream(1, 0), interop.ExternalStream(1, 1)):
            with timeline.span("work", stream):
                pass
    assert [str(span.lane) for span in timeline.spans] == [
        "interop copies, device 0",
        "interop first stream, device 0",
        "interop kernels, device 0",
        "legacy default, device 0",
        "legacy default, device 1",
    ]
