"""The tables of mutations keep up with the code; that each is caught is what ``make mutants`` finds out."""

import shutil
import tomllib

import pytest

from interop._extension import native, why_not
from tests.mutants import ROOT, SOURCE, TABLES, survives

MUTATIONS = [row for table in TABLES for row in tomllib.loads(table.read_text())["mutation"]]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda row: row["name"])
def test_its_text_is_there_once(mutation):
    assert (ROOT / mutation["file"]).read_text().count(mutation["old"]) == 1
    assert mutation["old"] != mutation["new"]
    assert (ROOT / mutation["test"].partition("::")[0]).exists()


@pytest.mark.skipif(native is None, reason=why_not)
def test_what_does_not_compile_is_not_caught(tmp_path):
    shutil.copytree(ROOT / "interop", tmp_path / "unbroken" / "interop")
    row = {"file": SOURCE, "old": "PyInit__native(void)", "new": "PyInit__native(void", "test": "tests/test_errors.py"}
    assert "it cannot be compiled" in survives(tmp_path / "unbroken", row)
