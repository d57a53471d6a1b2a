"""What kernels do through their parameters, told from machine code: against kernels that are known by construction."""

import pytest

from interop._order.findings import Kind
from interop.ledger.kernels.cubin import Cubin
from interop.ledger.kernels.sass import access
from interop.ledger.kernels.sass_text import parsed
from interop.ledger.kernels.sass_values import Frame
from tests.ledger.kernels.truth import ARCHITECTURES, TRUTH, cautious, false, fixture, missed, words

READ, MAYBE, WRITE = Kind.READ, Kind.MAYBE, Kind.WRITE
HEAD = '\t.target\tsm_90\n\t.section\t.text.other,"ax"\n        /*0000*/  STG.E [R2], R3 ;\n\t.section\t.text.k,"ax"\n'
A = "LDC.64 R2, c[0x0][0x210]"
B = "LDC.64 R4, c[0x0][0x218]"


def kernel(*lines, harmless=True):
    """A kernel with three pointers. A line that ends with a colon is a label."""
    shown = [line if line.endswith(":") else f"        /*{16 * i:04x}*/    {line} ;" for i, line in enumerate(lines)]
    return access(parsed(HEAD + "\n".join(shown), "k"), Frame(0x210, 24, (0, 8, 16), harmless=harmless))


def does(*lines, **frame):
    found = kernel(*lines, **frame)
    return found.of(0), found.of(8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_write_is_missed(architecture):
    text = fixture(f"sm_{architecture}.sass").decode()
    cubin = Cubin(fixture(f"sm_{architecture}.cubin"))
    found = {name: access(parsed(text, name), cubin.frame(name)) for name in cubin.kernels}
    assert len(found) >= 78
    assert set(found) <= set(TRUTH)
    assert not missed(found)
    assert not false(found)
    assert len(cautious(found)) <= 7, cautious(found)
    assert words(found) >= 166


def test_an_address_is_known_by_its_upper_half():
    wide = "IMAD.WIDE R6, R0, 0x4, R2"
    assert does(A, "LDG.E R0, [R4]", wide, "STG.E desc[UR4][R6.64+0x10], R0", "EXIT") == (WRITE, READ)
    assert does("LDC R2, c[0x0][0x210]", "MOV R3, RZ", "STG.E desc[UR4][R2.64], R0") == (MAYBE, MAYBE)


def test_a_sum_with_a_carry_keeps_the_address():
    assert does(
        A,
        "LDC.64 R4, c[0x0][0x220]",
        "IADD3 R6, P0, R2, R4, RZ",
        "IADD3.X R7, R3, R5, RZ, P0, !PT",
        "STG.E desc[UR4][R6.64], R0",
    ) == (WRITE, None)


def test_a_difference_of_two_pointers_is_no_sure_address():
    lower, upper = "IADD3 R6, P0, R2, -R4, RZ", "IADD3.X R7, R3, ~R5, RZ, P0, !PT"
    assert does(A, B, lower, upper, "STG.E desc[UR4][R6.64], R0") == (MAYBE, MAYBE)


def test_two_pointers_in_one_logical_instruction_are_no_sure_address():
    assert does(A, B, "LOP3.LUT R3, R3, R5, RZ, 0xfc, !PT", "STG.E desc[UR4][R2.64], R0") == (MAYBE, MAYBE)


@pytest.mark.parametrize(("scale", "found"), [("0x2", (WRITE, None)), ("0x0", (WRITE, WRITE))], ids=["scaled", "added"])
def test_a_shifted_index_is_a_number(scale, found):
    lea = f"LEA.HI.X R7, R4, R3, R5, {scale}, P0"
    assert does(A, B, f"LEA R6, P0, R4, R2, {scale}", lea, "STG.E desc[UR4][R6.64], R0") == found


@pytest.mark.parametrize("zero", ["CS2R R2, SRZ", "HFMA2.MMA R3, -RZ, RZ, 0, 0", "IMAD.MOV.U32 R3, RZ, RZ, RZ"])
def test_null_is_no_address_if_there_is_another(zero):
    other = "@P1 LDC.64 R2, c[0x0][0x210]"
    assert does(zero, other, "STG.E [R2.64+0x4], R0") == (WRITE, None)
    assert does(zero, "STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(zero, other, "IMAD.WIDE R2, R9, 0x4, R2", "STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(zero, other, "ULDC.64 UR6, c[0x0][0x218]", "STG.E [R2.64+UR6], R0") == (MAYBE, WRITE)


def test_a_base_in_a_uniform_register_counts():
    base = "ULDC.64 UR6, c[0x0][0x218]"
    assert does(A, base, "STG.E desc[UR4][R2.U32+UR6], R0") == (None, WRITE)
    assert does("MOV R3, RZ", base, "STG.E desc[UR4][R2.64+UR6+0x4], R0") == (None, WRITE)


def test_two_branches_give_one_of_two_addresses():
    assert does(A, "@P0 BRA `(.L_1)", B, "MOV R2, R4", "MOV R3, R5", ".L_1:", "STG.E [R2.64], R0") == (MAYBE, MAYBE)


def test_what_is_written_on_a_predicate_is_read_on_it():
    garbage = "MOV R3, 0x1"
    on = "@P0 LDC.64 R2, c[0x0][0x210]"
    assert does(garbage, on, "@P0 STG.E [R2.64], R0") == (WRITE, None)
    assert does(garbage, on, "@!P0 LDC.64 R2, c[0x0][0x218]", "@!P0 STG.E [R2.64], R0") == (None, WRITE)
    assert does(garbage, on, "@P0 BRA `(.L_1)", "EXIT", ".L_1:", "STG.E [R2.64], R0") == (WRITE, None)
    assert does(garbage, on, "@!P0 EXIT", "STG.E [R2.64], R0") == (WRITE, None)


def test_what_is_written_on_a_predicate_may_be_there_or_not():
    on = "@P0 LDC.64 R2, c[0x0][0x218]"
    assert does(A, on, "STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(A, on, "ISETP.GE.AND P0, PT, R9, RZ, PT", "@P0 STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(A, on, "@P1 LDC.64 R2, c[0x0][0x210]", "@P0 STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(A, on, "@!P0 EXIT P1", "STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does(A, on, "@!P0 BRA P1, `(.L_1)", "STG.E [R2.64], R0", ".L_1:", "EXIT") == (MAYBE, MAYBE)


def test_what_one_way_brings_is_read_on_the_predicate_of_its_branch():
    ways = ("MOV R3, 0x1", "{}BRA {}`(.L_1)", A, ".L_1:", "{} STG.E [R2.64], R0")
    assert does(*(line.format("@P0 ", "") if "BRA" in line else line.format("@!P0") for line in ways)) == (WRITE, None)
    assert does(*(line.format("", "!P0, ") if "BRA" in line else line.format("@P0") for line in ways)) == (WRITE, None)
    assert does(*(line.format("@P0 ", "") if "BRA" in line else line.format("@P0") for line in ways)) == (MAYBE, MAYBE)
    assert does(*(line.format("@P0 ", "P1, ") if "BRA" in line else line.format("@!P0") for line in ways)) == (
        MAYBE,
        MAYBE,
    )
    anew = (*ways[:-1], "ISETP.GE.AND P0, PT, R9, RZ, PT", ways[-1])
    assert does(*(line.format("@P0 ", "") if "BRA" in line else line.format("@!P0") for line in anew)) == (MAYBE, MAYBE)


def test_what_is_only_written_on_a_predicate_reaches_where_ways_meet():
    other = ("@P1 BRA `(.L_1)", A, "BRA `(.L_2)", ".L_1:", "@P0 LDC.64 R2, c[0x0][0x218]", ".L_2:")
    assert does(*other, "STG.E [R2.64], R0") == (MAYBE, MAYBE)


def test_an_instruction_that_never_runs_does_nothing():
    assert does(A, "@!PT STG.E [R2.64], R0", "EXIT") == (None, None)


def test_what_no_way_leads_to_does_nothing():
    assert does(A, "EXIT", "STG.E [R2.64], R0") == (None, None)


def test_a_loop_is_followed():
    step = ("IADD3 R2, P0, R2, 0x4, RZ", "IADD3.X R3, RZ, R3, RZ, P0, !PT")
    assert does(A, ".L_1:", "STG.E [R2.64], R0", *step, "@P1 BRA `(.L_1)", "EXIT") == (WRITE, None)


@pytest.mark.parametrize(
    "store",
    [
        "STG.E.128 desc[UR4][R2.64], R8",
        "STG.E.ENL2.256 desc[UR4][R2.64], R8, R12",
        "ST.E.STRONG.SYS [R2.64], R8",
        "RED.E.ADD.STRONG.GPU [R2], R8",
        "REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R8",
        "ATOMG.E.CAS.STRONG.GPU PT, R8, [R2.64], R8, R9",
        "ATOM.E.ADD.64.STRONG.GPU PT, RZ, [R2], R8",
        "CCTL.E.RML2 [R2]",
    ],
)
def test_a_store_of_any_kind_counts(store):
    assert does(A, store) == (WRITE, None)


@pytest.mark.parametrize(
    "load", ["LDG.E R8, desc[UR4][R2.64]", "LD.E.128 R8, [R2.64]", "LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR4][R2.64]"]
)
def test_a_load_of_any_kind_counts(load):
    assert does(A, load) == (READ, None)


@pytest.mark.parametrize("harmless", ["STS [R2], R0", "CCTL.IVALL", "CCTL.E.PF2 [R2]", "ATOMS.ADD RZ, [R2], R0"])
def test_shared_memory_and_the_cache_do_not_count(harmless):
    assert does(A, harmless) == (None, None)


def test_an_address_from_the_stack_is_known_by_its_place():
    spilled = (A, B, "LDC R1, c[0x0][0x28]", "IADD3 R1, R1, -0x10, RZ", "STL.64 [R1], R2", "STL.64 [R1+0x8], R4")
    assert does(*spilled, "LDL.64 R6, [R1+0x8]", "STG.E [R6.64], R0") == (None, WRITE)
    assert does(*spilled, "VIADD R1, R1, 0xfffffff8", "LDL.64 R6, [R1+0x8]", "STG.E [R6.64], R0") == (WRITE, None)
    assert does(*spilled, "LDL.64 R6, [R9]", "STG.E [R6.64], R0") == (MAYBE, MAYBE)
    assert does(*spilled, "STL.64 [R9], R4", "LDL.64 R6, [R1]", "STG.E [R6.64], R0") == (MAYBE, MAYBE)


def test_an_address_goes_through_shared_memory_from_any_place():
    found = kernel(B, "LDS.64 R6, [R9]", ".L_1:", "STG.E [R6.64], R0", "STS.64 [R8], R4")
    assert (found.of(0), found.of(8)) == (None, WRITE)


def test_an_address_that_was_loaded_may_be_any():
    found = kernel(A, "LDG.E.64 R6, [R2.64]", "STG.E [R6.64], R0")
    assert (found.of(0), found.of(16)) == (MAYBE, MAYBE)
    assert found.why == "a store whose address was loaded from memory"


def test_two_loads_of_four_bytes_are_an_address_too():
    halves = ("LDG.E R6, [R2.64]", "LDG.E R7, [R2.64+0x4]")
    assert does(A, *halves, "STG.E [R6.64], R0") == (MAYBE, MAYBE)


def test_both_results_of_a_load_of_32_bytes_are_loaded():
    wide = "LDG.E.ENL2.256 R8, R4, desc[UR4][R2.64]"
    assert does(A, B, wide, "STG.E [R4.64], R0") == (MAYBE, MAYBE)


def test_a_sum_of_two_registers_at_once_has_two_results():
    assert does(A, "IADD.64 R6, R2, 0x10", "STG.E [R6.64], R0") == (WRITE, None)
    assert does(A, B, "MOV R7, RZ", "LEA.64 R6, R4, R2, 0x2", "STG.E [R6.64], R0") == (MAYBE, MAYBE)


def test_a_parameter_that_is_chosen_at_run_time_may_be_any():
    assert does("LDC.64 R2, c[0x0][R9+0x210]", "STG.E [R2.64], R0") == (MAYBE, MAYBE)
    assert does("LDC.64 R2, c[0x0][R9+0x210]", "LDG.E R0, [R2.64]") == (READ, READ)


def test_a_load_from_an_address_that_nothing_computes_may_be_any():
    assert does("LDG.E R0, [R2.64]") == (READ, READ)


FUNCTION = ("EXIT", "f:", "STG.E [R6.64], R0", "RET.REL.NODEC R20 `(k)")


def test_a_function_is_followed_from_each_of_its_calls():
    first = ("MOV R6, R2", "MOV R7, R3", "CALL.REL.NOINC `(f)")
    second = ("MOV R6, R4", "MOV R7, R5", "CALL.REL.NOINC `(f)")
    assert does(A, B, *first, *second, *FUNCTION) == (WRITE, WRITE)
    assert does(A, *first, "STG.E [R6.64], R0", *FUNCTION) == (WRITE, None)


def test_a_division_by_the_compiler_makes_a_number():
    name = "$__internal_0_$__cuda_sm20_div_u64"
    call = f"CALL.REL.NOINC `({name})"
    division = ("EXIT", f"{name}:", "MOV R2, R4", "{}", "RET.REL.NODEC R20 `(k)", "after:", "STG.E [R4.64], R0")
    whole = [line.format("ISETP.GE.AND P0, PT, R9, RZ, PT") for line in division]
    assert does(A, B, call, "STG.E [R4.64], R0", *whole) == (None, WRITE)
    assert does(A, B, call, "STG.E [R2.64], R0", *whole) == (MAYBE, MAYBE)
    either = ("LDC.64 R4, c[0x0][0x210]", "@P0 LDC.64 R4, c[0x0][0x218]")
    assert does(*either, call, "@P0 STG.E [R4.64], R0", *whole) == (MAYBE, MAYBE)
    writes = [line.format("STG.E [R4.64], R0") for line in division]
    assert does(A, B, call, *writes) == (None, WRITE)


def test_a_function_that_calls_itself_is_followed():
    itself = ("f:", "@P0 RET.REL.NODEC R20 `(k)", "CALL.REL.NOINC `(f)", "MOV R3, R5", "STG.E [R2.64], R0")
    assert does(A, B, "CALL.REL.NOINC `(f)", "EXIT", *itself, "RET.REL.NODEC R20 `(k)") == (None, WRITE)


def test_what_is_called_through_a_pointer_may_write_all():
    found = kernel(A, "CALL.ABS.NOINC R2", "EXIT")
    assert (found.of(8), found.why) == (MAYBE, "a call through a pointer")
    assert kernel("CALL.REL.NOINC R2 `(k)", "EXIT").of(8) is MAYBE
    assert kernel("CALL.REL.NOINC `(there)", "EXIT").of(8) is MAYBE


def test_what_the_driver_calls_itself_writes_nothing():
    call = ("LDC.64 R2, c[0x4][R9]", "CALL.ABS.NOINC R2", "EXIT")
    assert kernel(*call).of(0) is None
    assert kernel(*call, harmless=False).of(0) is MAYBE
    assert kernel("CALL.ABS.NOINC `(vprintf)", "EXIT", harmless=False).of(0) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("SUST.D.BA.1D [R2], R8, 0x50", "a store to a surface"),
        ("FROBNICATE R2, R3", "the instruction FROBNICATE is not known"),
        ("UBLKCP.X [UR4], [UR6], UR8", "a copy in bulk"),
        ("BRA `(.L_away)", "a jump out of the code that was seen"),
    ],
)
def test_what_is_not_followed_may_write_all(line, why):
    found = kernel(line, "EXIT")
    assert (found.of(0), found.why) == (MAYBE, why)


def test_a_jump_through_a_table_leads_to_each_of_its_places():
    table = 'BRX R9 -0x10    (*"BRANCH_TARGETS .L_1,.L_2"*)'
    ways = (".L_1:", "STG.E [R2.64], R0", "EXIT", ".L_2:", "STG.E [R4.64], R0", "EXIT", ".L_3:", "STG.E [R6.64], R0")
    assert does(A, B, table, *ways) == (WRITE, WRITE)


def test_code_that_is_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr("interop.ledger.kernels.sass._MOST_STEPS", 3)
    found = kernel(A, "STG.E [R2.64], R0", "NOP", "NOP", "EXIT")
    assert (found.of(0), found.why) == (MAYBE, "its code is too long to be followed")
