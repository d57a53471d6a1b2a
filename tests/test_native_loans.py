"""Hand-overs that are made again, by the extension in C, on the simulator."""

import pytest

import interop
from interop import _loans
from interop._extension import native, why_not
from tests import test_loans
from tests.test_loans import *  # noqa: F403  (the same tests, with the fixture below)
from tests.test_loans import Array
from tests.test_native import assert_nothing_is_left_of_thousands, made, quiet  # noqa: F401  (fixtures)
from tests.test_native import gpu as hot  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(native is None, reason=why_not)


@pytest.fixture
def gpu(hot, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hot.cuda, "pointer_place", lambda _: (2, 0))
    yield hot
    while interop.release():
        pass
    assert not _loans.loans
    assert not _loans.by_view


@pytest.fixture
def streams(gpu):
    p, c = interop.new_stream(), interop.new_stream()
    for stream in (p, c):
        stream.query()
    spare = [p.record_event() for _ in range(4)]  # which the fast calls need
    del spare
    return p, c


def test_nothing_of_it_is_python(gpu, library, streams, monkeypatch):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    assert interop.handoff(view, p) is source
    interop.release()
    for name in ("again", "home_again"):
        monkeypatch.setattr(_loans.Loan, name, lambda *_: pytest.fail("the plain way"))
    made.clear()
    assert interop.handoff(source, c, producer=p) is view
    assert interop.handoff(view, p) is source
    assert made == ["cuEventRecord", "cuStreamWaitEvent"] * 2


def test_what_stands_before_the_handoff_is_changed_by_no_wrong_call(gpu, library, streams, monkeypatch):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    with pytest.raises(TypeError):
        native.accelerate_handoff(interop.handoff, {}, {}, None)
    monkeypatch.setattr(_loans.Loan, "again", lambda *_: pytest.fail("the plain way"))
    assert interop.handoff(source, c, producer=p) is view


def test_nothing_is_left_of_thousands(gpu, library, streams, quiet):  # noqa: F811
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    interop.handoff(view, p)
    quiet()

    def once():
        assert interop.handoff(source, c, producer=p) is view
        assert interop.handoff(view, p) is source
        with pytest.raises(TypeError):
            interop.handoff(source, wrong=c)

    assert_nothing_is_left_of_thousands(once)


def test_every_test_of_loans_is_here():
    here = {name for name in globals() if name.startswith("test_")}
    assert {name for name in vars(test_loans) if name.startswith("test_")} <= here
