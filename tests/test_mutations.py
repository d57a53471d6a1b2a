"""The tables of mutations keep up with the code; that each is caught is what ``make mutants`` finds out."""

import tomllib

import pytest

from tests.mutants import ROOT, TABLES

MUTATIONS = [row for table in TABLES for row in tomllib.loads(table.read_text())["mutation"]]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda row: row["name"])
def test_its_text_is_there_once(mutation):
    assert (ROOT / mutation["file"]).read_text().count(mutation["old"]) == 1
    assert mutation["old"] != mutation["new"]
    assert (ROOT / mutation["test"].partition("::")[0]).exists()
