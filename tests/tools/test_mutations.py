"""Each change of a mutation does what it says. That each is caught is what ``make mutants`` finds out."""

import shutil
import tomllib

import pytest

from interop._native import native, why_not
from tests.mutants import ROOT, TABLE, DoesNotApplyError, mutated, survives

PYTHON = """
class Cuda:
    def order(self, first, second):
        # a comment
        self.record(
            first, second
        )
        if first and not self.done:
            self.wait(second)
        return first

def order():
    pass
"""
C = """
static int
order(Stream *consumer,
      Stream *producer)
{
    int code = record(producer);
#ifdef WAIT
    return code == SUCCESS
               ? wait(consumer) : code;
#endif
}

static int
other(void)
{
    return code == SUCCESS;
}
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"drop": "record"}, "pass\n        if first and (not self.done):"),
        ({"never": "done"}, "if False:"),
        ({"always": "done"}, "if True:"),
        ({"swap": "record"}, "self.record(second, first)"),
        ({"old": "self.record(first, second)", "new": "self.record(first, 7)"}, "self.record(first, 7)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_python_is_changed_in_its_function(change, expected):
    assert expected in mutated(PYTHON, {"function": "x.py::Cuda.order", **change})


@pytest.mark.parametrize(
    ("function", "change"),
    [
        ("x.py::Cuda.nothing", {"drop": "record"}),
        ("x.py::order", {"drop": "record"}),
        ("x.py::Cuda.order", {"drop": "query"}),
        ("x.py::Cuda.order", {"old": "a comment", "new": ""}),
        ("x.c::nothing", {"old": "code", "new": ""}),
        ("x.c::other", {"old": "record", "new": ""}),
    ],
)
def test_a_change_that_changes_nothing_is_told(function, change):
    with pytest.raises(DoesNotApplyError):
        mutated(PYTHON if ".py" in function else C, {"function": function, **change})


def test_c_is_changed_in_its_function():
    changed = mutated(C, {"function": "x.c::order", "old": "code == SUCCESS ? wait(consumer)", "new": "code ? 0"})
    assert "return code ? 0 : code;" in changed
    assert "\n#ifdef WAIT\n" in changed
    assert "return code == SUCCESS;" in changed


def test_the_table_names_functions_and_tests_that_are_there():
    """After a rename, the mutations are told here, and not only by ``make mutants``, which takes minutes."""
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    for row in tomllib.loads(TABLE.read_text())["mutation"]:
        mutated((ROOT / row["function"].partition("::")[0]).read_text(), row)
        file, *_, name = row["test"].partition("[")[0].split("::")
        assert (ROOT / file).exists(), row["name"]
        assert f"def {name}(" in tests, row["name"]


@pytest.mark.skipif(native is None, reason=why_not)
def test_what_does_not_compile_is_not_caught(tmp_path):
    shutil.copytree(ROOT / "interop", tmp_path / "unbroken" / "interop")
    row = {"function": "interop/_native/module.c::execute", "old": "return", "new": "return return", "test": "none"}
    assert "it cannot be compiled" in survives(tmp_path / "unbroken", row)
