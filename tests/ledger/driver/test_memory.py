"""What is allocated, by address; and how far the arrays reach that kernels are given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.ledger.driver.memory import Allocations, Part
from interop.ledger.driver.views import view
from interop.ledger.layout import Layout, block, elements, share


def part(start, stop, number=1, **more):
    return Part(start, stop, number, f"number {number}", **more)


def numbers(memory, *addresses):
    return [found and found.number for found in map(memory.find, addresses)]


def test_an_address_belongs_to_the_innermost_part():
    memory = Allocations()
    memory.add(part(1000, 2000, 1))
    memory.add(part(1000, 1500, 2, is_pooled=True))  # such as RMM's, of which CuPy's pool cuts
    memory.add(part(1000, 1100, 3, is_pooled=True))
    memory.add(part(1600, 1700, 4, is_pooled=True))
    assert numbers(memory, 999, 1000, 1099, 1100, 1500, 1600, 1700, 2000) == [None, 3, 3, 2, 1, 4, 1, None]
    assert memory.free(1000, pooled=True).number == 3
    assert memory.free(1000, pooled=True).number == 2
    assert memory.free(1000, pooled=True) is None
    assert numbers(memory, 1000, 1600) == [1, 4]


def test_what_is_freed_is_known_until_its_memory_is_allocated_again():
    memory = Allocations()
    memory.add(part(1000, 2000, 1))
    memory.add(part(1100, 1200, 2, is_pooled=True))
    memory.free(1000, pooled=False)
    assert numbers(memory, 1000, 1100) == [None, None]
    assert memory.last(1150).number == 1
    memory.add(part(1900, 2100, 3))
    assert memory.last(1150) is None
    assert numbers(memory, 1950) == [3]


def test_memory_that_was_freed_out_of_sight_is_forgotten_when_it_is_allocated_again():
    memory = Allocations()
    memory.add(part(1000, 3000, 1))
    memory.add(part(1000, 1500, 2, is_pooled=True))
    memory.add(part(1400, 1600, 3, is_pooled=True))
    assert numbers(memory, 1000, 1450) == [1, 3]
    memory.add(part(1400, 1600, 4, is_pooled=True))
    assert numbers(memory, 1450) == [4]
    memory.add(part(2000, 4000, 5))
    assert numbers(memory, 1450, 2500) == [None, 5]


def test_mapped_memory_is_one_block():
    memory = Allocations()
    memory.map(part(3000, 4000, 1))
    memory.map(part(1000, 2000, 2))
    assert (memory.find(1500).stop, memory.find(3500).start) == (2000, 3000)
    memory.map(part(2000, 3000, 3))
    assert (memory.find(1500).start, memory.find(1500).stop) == (1000, 4000)
    assert memory.is_mapped(2000)
    memory.unmap(2000)
    assert (memory.find(1500).stop, memory.find(2500), memory.find(3500).start) == (2000, None, 3000)
    assert memory.unmap(2000) is None


def test_the_freed_parts_that_are_remembered_are_bounded():
    memory = Allocations()
    for number in range(10_010):
        memory.add(part(100 * number, 100 * number + 100, number))
        memory.free(100 * number, pooled=False)
    assert memory.last(0) is None
    assert memory.last(100 * 10_009).number == 10_009
    assert len(memory._freed.parts) == 10_000


# -- views -------------------------------------------------------------------------------------------------------------

X = 1 << 40


def cupys(address, array, at=0):
    return dict(zip(range(at, 1000, 8), (address, array.size, *array.shape, *array.strides), strict=False))


def numbas(address, array, at=0):
    words = (0, 0, array.size, array.itemsize, address, *array.shape, *array.strides)
    return dict(zip(range(at, 1000, 8), (word % (1 << 64) for word in words), strict=False))


base = np.zeros((8, 6), np.float32)
VIEWS = {
    "whole": base, "rows": base[2:4], "columns": base[:, 1:3], "backwards": base[::-1, ::-1], "steps": base[::2, ::3],
    "turned": base.T, "flat": base.ravel()[5:], "one": base[3, 4:5],
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_the_layout_of_a_numba_array_is_exact(name):
    array = VIEWS[name]
    at = X + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    words = numbas(at, array, 16) | {160: 7, 168: X}
    found = view(words, 16 + 32, part(X, X + base.nbytes), by_cupy=False)
    assert found == elements(at, array.shape, array.strides, 4)
    assert not found.at_most


@pytest.mark.parametrize("name", VIEWS)
def test_the_layout_of_a_cupy_array_says_what_is_sure_and_how_far_it_may_reach(name):
    array = VIEWS[name]
    low, high = np.lib.array_utils.byte_bounds(array)
    start = base.__array_interface__["data"][0]
    at = X + array.__array_interface__["data"][0] - start
    words = {offset: word % (1 << 64) for offset, word in cupys(at, array, 8).items()}
    found = view(words, 8, part(X, X + base.nbytes + 64), by_cupy=True)
    assert found.start == X + low - start
    assert X + high - start <= found.stop <= X + high - start + 20
    assert found.at_most
    assert share(found, block(at, 1))


def test_views_that_share_no_byte_are_not_known_to():
    words = cupys(X, base[:, :2], 0) | cupys(X + 8, base[:, 2:4], 200)
    left, right = (view(words, at, part(X, X + base.nbytes), by_cupy=True) for at in (0, 200))
    assert share(left, right) is None
    assert share(left, left) is True
    assert share(left, block(X + 24, 4)) is True  # the second row begins there
    assert share(block(X + 24, 4), left) is True


def test_an_address_alone_reaches_to_the_end_of_its_part():
    words = {0: X + 16, 8: 100, 16: 100, 24: 4}
    found = view(words, 0, part(X, X + 512), by_cupy=False)
    assert found == Layout(None, X + 16, X + 512, at_most=True)
    assert share(found, found) is True
    assert share(found, found._replace(start=X + 32)) is None
    assert share(found, block(X + 16, 480)) is True
    assert share(found, block(X, 512)) is True  # it has all that is touched
    assert share(found._replace(stop=X + 4096), block(X + 16, 480)) is None
    assert share(found, block(X + 32, 1)) is None


def test_a_layout_that_leaves_the_memory_is_none():
    words = cupys(X, base)
    assert view(words, 0, part(X, X + base.nbytes - 1), by_cupy=True).strided is None


def test_an_array_without_elements_touches_nothing():
    words = numbas(X, np.zeros((0, 3)))
    found = view(words, 32, part(X, X + 100), by_cupy=False)
    assert found.start == found.stop


@given(st.data())
def test_words_that_mean_several_layouts_give_what_covers_all(data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    array = np.zeros(shape, np.uint8)
    after = data.draw(st.lists(st.integers(0, 4), max_size=8))
    words = numbas(X, array)
    words |= {len(words) * 8 + 8 * i: word for i, word in enumerate(after)}
    found = view(words, 32, part(X, X + 4096), by_cupy=False)
    assert found.start == X
    assert found.stop >= X + array.nbytes
