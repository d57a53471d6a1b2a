"""What breaks the code on purpose works itself; that each mutation is caught is what ``make mutants`` finds out."""

import shutil

import pytest

from interop._native import native, why_not
from tests.mutants import ROOT, survives


@pytest.mark.skipif(native is None, reason=why_not)
def test_what_does_not_compile_is_not_caught(tmp_path):
    shutil.copytree(ROOT / "interop", tmp_path / "unbroken" / "interop")
    broken = {"old": "PyInit__ext(void)", "new": "PyInit__ext(void", "test": "tests/test_errors.py"}
    row = {"file": "interop/_native/module.c", **broken}
    assert "it cannot be compiled" in survives(tmp_path / "unbroken", row)
