"""The pools of CuPy and PyTorch, told between the calls of the driver."""

import sys
from types import SimpleNamespace

import pytest

from interop.ledger.driver.calls import Call
from interop.ledger.driver.pools import Pools, _Finder


class Noted:
    """A recorder that keeps what is noted."""

    def __init__(self):
        self.notes = []

    def note(self, *what):
        self.notes.append(what)


@pytest.fixture
def recorder():
    return Noted()


@pytest.fixture
def cupy(monkeypatch):
    """A module with CuPy's setting: the allocator of all threads."""
    state = SimpleNamespace(allocator=lambda size: SimpleNamespace(ptr=4096 + size))
    cuda = SimpleNamespace(
        get_allocator=lambda: state.allocator,
        set_allocator=lambda allocator=None: setattr(state, "allocator", allocator),
        get_current_stream=lambda: SimpleNamespace(ptr=0),
    )
    module = SimpleNamespace(cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return module


def test_an_allocation_of_cupy_is_noted_whoever_has_set_the_allocator(recorder, cupy):
    pools = Pools(recorder)
    before, original = cupy.cuda.get_allocator(), cupy.cuda.set_allocator
    pools.open()
    assert cupy.cuda.get_allocator()(10).ptr == 4106
    cupy.cuda.set_allocator(lambda _: SimpleNamespace(ptr=1))
    cupy.cuda.get_allocator()(20)
    cupy.cuda.set_allocator()
    assert cupy.cuda.get_allocator() is None
    cupy.cuda.set_allocator(before)
    pools.close()
    assert recorder.notes == [("pool alloc", 1, 4106, 0, 10), ("pool alloc", 1, 1, 0, 20)]
    assert (cupy.cuda.get_allocator(), cupy.cuda.set_allocator) == (before, original)


@pytest.fixture
def torch(monkeypatch):
    """A module with PyTorch's history of allocations."""
    module = SimpleNamespace(history=None, cleared=0)
    blocks = [{"state": "inactive", "address": 1, "size": 1}, {"state": "active_allocated", "address": 512, "size": 64}]

    def switch(enabled="all", *, clear_history=False, **_):
        module.history = [] if enabled and (clear_history or module.history is None) else module.history
        module.history = module.history if enabled else None

    memory = SimpleNamespace(
        _record_memory_history=switch,
        _snapshot=lambda: {
            "segments": [{"stream": 0, "blocks": blocks}],
            "device_traces": [list(module.history or [])],
        },
    )
    module.cuda = SimpleNamespace(memory=memory, _lazy_call=lambda call: call())
    module._C = SimpleNamespace(_cuda_isHistoryEnabled=lambda: module.history is not None)
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    return module


def entry(action, address, microseconds):
    return {"action": action, "addr": address, "size": 64, "stream": 7, "time_us": microseconds}


def test_the_history_of_torch_is_told_at_its_times(recorder, torch):
    pools = Pools(recorder)
    pools.open()
    assert recorder.notes == [("pool alloc", 1, 512, 0, 64)]  # what was there before
    calls = [Call(1, "launch", time=1_000_500), Call(2, "launch", time=3_000_000)]
    torch.history += [entry("alloc", 4096, 1000), entry("segment_alloc", 0, 1001), entry("free_requested", 4096, 2000)]
    found = [(call.kind, call.stream, call.a) for call in pools.merged(iter(calls))]
    assert found == [("pool alloc", 7, 4096), ("launch", 0, 0), ("pool free", 7, 4096), ("launch", 0, 0)]
    assert list(pools.merged([])) == []
    torch.history.append(entry("alloc", 8192, 5000))
    pools.close()
    assert torch.history is None
    assert [call.a for call in pools.merged([])] == [8192]


def test_a_history_of_the_programs_own_is_left_alone(recorder, torch):
    torch.history = [entry("alloc", 4096, 1000)]
    pools = Pools(recorder)
    pools.open()
    assert list(pools.merged([])) == []
    pools.close()
    assert len(torch.history) == 1


def test_a_library_is_observed_when_the_program_imports_it(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("value = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = []
    monkeypatch.setattr(sys, "meta_path", [_Finder({"imported_late": seen.append}), *sys.meta_path])
    import imported_late

    assert seen == [imported_late]
    assert imported_late.value == 5
    assert imported_late.__spec__.loader is imported_late.__loader__
    assert type(imported_late.__loader__).__name__ == "SourceFileLoader"
