"""What kernels do through their parameters, told from PTX: against kernels that are known by construction."""

import pytest

from interop._order.findings import Kind
from interop.ledger.kernels.ptx import accesses
from tests.ledger.kernels.truth import ARCHITECTURES, TRUTH, cautious, false, fixture, missed, words

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


def kernel(body, parameters=".param .u64 a, .param .u64 b"):
    text = f"{HEAD}.visible .entry k({parameters})\n{{\n.reg .b64 %rd<9>;\n.reg .b32 %r<9>;\n{body}\nret;\n}}\n"
    return accesses(text)["k"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_write_is_missed(architecture):
    found = accesses(fixture(f"sm_{architecture}.ptx").decode())
    assert len(found) >= 78
    assert set(found) <= set(TRUTH)
    assert not missed(found)
    assert not false(found)
    assert len(cautious(found)) <= 11, cautious(found)
    assert words(found) >= 166


def test_parameters_lie_where_their_types_align_them():
    found = kernel(
        "",
        ".param .u8 x, .param .u64 y, .param .u32 z, .param .align 16 .b8 s[24], .param .u64 .ptr .global .align 4 p",
    )
    assert found.parameters == (0, 8, 16, 32, 56)


def test_an_address_goes_through_a_loop():
    found = kernel("ld.param.u64 %rd1, [a];\n$L: st.global.u32 [%rd1], 0;\nadd.s64 %rd1, %rd1, 4;\n@%p1 bra $L;")
    assert (found.of(0), found.of(8)) == (Kind.WRITE, None)


def test_a_predicated_vector_store_counts():
    found = kernel("ld.param.u64 %rd1, [a];\n@!%p1 st.global.v4.b32 [ %rd1 + 16 ], {%r1, %r2, %r3, %r4};")
    assert found.of(0) is Kind.WRITE


def test_an_address_that_was_truncated_is_none():
    found = kernel("ld.param.u64 %rd1, [a];\ncvt.u32.u64 %r1, %rd1;\ncvt.u64.u32 %rd2, %r1;\nst.global.u32 [%rd2], 0;")
    assert found.of(8) is Kind.MAYBE
    assert "computed from no parameter" in found.why


def test_a_load_from_an_address_that_nothing_tells_may_be_any():
    found = kernel("cvt.u64.u32 %rd2, %r1;\nld.global.u32 %r2, [%rd2];")
    assert (found.of(0), found.of(8)) == (Kind.READ, Kind.READ)


def test_a_difference_of_two_pointers_is_no_sure_address():
    found = kernel(
        "ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nsub.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], 0;"
    )
    assert (found.of(0), found.of(8)) == (Kind.MAYBE, Kind.MAYBE)


CALL = """{{
.param .b64 param0;
st.param.b64 [param0+0], %rd1;
call.uni {0}, (param0);
}}"""


def test_what_is_passed_to_code_out_of_sight_may_be_written():
    found = kernel(
        "ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.global.u32 %r1, [%rd2];" + CALL.format("there")
    )
    assert (found.of(0), found.of(8)) == (Kind.MAYBE, Kind.READ)
    assert found.why == "a call of there, whose code was not seen"


def test_a_print_writes_nothing():
    assert kernel("ld.param.u64 %rd1, [a];" + CALL.format("vprintf")).of(0) is None


def test_a_function_out_of_sight_is_given_what_lies_in_local_memory():
    found = kernel(
        ".local .align 8 .b8 depot[8];\nld.param.u64 %rd2, [a];\nmov.u64 %rd1, depot;\nst.local.u64 [%rd1], %rd2;"
        + CALL.format("there")
    )
    assert found.of(0) is Kind.MAYBE


@pytest.mark.parametrize(
    "store",
    [
        "red.async.relaxed.global.add.u32 [%rd1], %r1;",
        "atom.global.cas.b64 %rd3, [%rd1], %rd4, %rd5;",
        "multimem.red.release.sys.global.add.u32 [%rd1], %r1;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r1], 16;",
        "st.volatile.v2.u64 [%rd1+8], {%rd2, %rd3};",
        "st.release.gpu.global.u32 [%rd1], %r2;",
    ],
)
def test_a_store_of_any_kind_counts(store):
    assert kernel(f"ld.param.u64 %rd1, [a];\n{store}").of(0) is Kind.WRITE


@pytest.mark.parametrize(
    "store",
    [
        "st.shared.u32 [%r1], 0;",
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3];",
        "atom.shared.add.u32 %r2, [%r1], 1;",
        "mbarrier.init.shared.b64 [%r1], 1;",
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r1], [%r2], 16, [%r3];",
    ],
)
def test_shared_memory_does_not_count(store):
    found = kernel(f"ld.param.u64 %rd1, [a];\nld.global.u32 %r4, [%rd1];\n{store}")
    assert (found.of(0), found.of(8), found.every) == (Kind.READ, None, False)


def test_a_surface_may_be_any_array():
    found = kernel("ld.param.u64 %rd1, [a];\nsust.b.1d.b32.trap [%rd1, {%r1}], {%r2};")
    assert found.of(8) is Kind.MAYBE


def test_comments_and_debug_lines_are_no_code():
    found = kernel(
        "// st.global.u32 [%rd1], 0;\n.loc 1 2 3\nld.param.u64 %rd1, [a]; /* } */\nld.global.u32 %r1, [%rd1];"
    )
    assert found.of(0) is Kind.READ
