"""The table of libraries says what their adapters do, which it is read instead of."""

import ast

import pytest

from docs.imports import MODULES
from interop._show import callsite
from interop.adapters.base import Adapter
from interop.adapters.table import TABLE, may_have_current_stream
from tests.adapter_code import adapter_of
from tests.default_streams import DEFAULT_STREAMS
from tests.gpu.lab import STREAMS
from tests.gpu.test_arrays import CONSUMERS, PRODUCERS
from tests.gpu.test_events import EVENTS
from tests.gpu.test_limits import REFUSED

NOT_ADAPTERS = {f"interop.adapters.{name}" for name in ("base", "dlpack", "numbas", "table", "tensor")}


def test_every_adapter_has_a_row():
    there = {module for module in MODULES if module.startswith("interop.adapters.")}
    assert {row.adapter for row in TABLE.values()} == there - NOT_ADAPTERS
    assert list(TABLE) == sorted(TABLE)


@pytest.mark.parametrize("row", [row for row in TABLE.values() if row.null is not None], ids=lambda row: row.name)
def test_the_tests_can_make_what_a_library_has(row):
    """JAX, which has no streams, has tests of its own."""
    _, methods = adapter_of(row.name)
    needed = {
        "a class in interop/matrix/libraries.py, which makes a stream": STREAMS,
        "its default streams in tests/default_streams.py": DEFAULT_STREAMS,
    }
    if "event_handle" in methods:
        needed["how it makes an event, in EVENTS of tests/gpu/test_events.py"] = EVENTS
    if "read" in methods:
        needed["how it makes an array, in PRODUCERS of tests/gpu/test_arrays.py"] = PRODUCERS
    if "make_array" in methods:
        needed["how it reads and writes an array, in CONSUMERS of tests/gpu/test_arrays.py"] = CONSUMERS
        needed["which arrays it cannot take, in REFUSED of tests/gpu/test_limits.py"] = REFUSED
    missing = [what for what, table in needed.items() if row.name not in table]
    assert not missing, f"for {row.name}, add " + "; ".join(missing)


@pytest.mark.parametrize("row", TABLE.values(), ids=list(TABLE))
def test_a_row_agrees_with_its_adapter(row):
    adapter, methods = adapter_of(row.name)
    names = [
        node.value.value for node in adapter.body if isinstance(node, ast.Assign) and node.targets[0].id == "library"
    ]
    assert names == [row.name]
    assert ("current_stream" in methods) is row.has_current_stream is may_have_current_stream(row.name)


def test_a_library_without_a_row_may_have_a_current_stream():
    assert may_have_current_stream("acme_streams")


@pytest.mark.parametrize(
    "module",
    [
        "cuda",
        "cupy",
        "cupyx",
        "jax",
        "numba",
        "numba_cuda",
        "numba_cuda_mlir",
        "nvidia",
        "rmm",
        "torch",
        "tvm_ffi",
        "warp",
    ],
)
def test_the_line_that_a_report_names_is_not_a_librarys(module):
    namespace = {"__name__": f"{module}.inside", "find": callsite.user_frame}
    exec("def call(): return find()", namespace)
    assert namespace["call"]().f_code.co_filename == __file__


@pytest.mark.parametrize(
    ("method", "attribute"),
    [
        ("current_stream", "has_current_stream"),
        ("make_array", "makes_arrays"),
        ("stream_device", "default_streams_have_devices"),
    ],
)
def test_what_a_library_has_is_told_by_what_its_adapter_overrides(method, attribute):
    class Plain(Adapter):
        pass

    overriding = type("Overriding", (Plain,), {method: lambda *_: None})
    derived = type("Derived", (overriding,), {})
    assert [getattr(cls, attribute) for cls in (Adapter, Plain, overriding, derived)] == [False, False, True, True]
