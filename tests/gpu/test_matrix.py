"""The table of what happens to arrays by default, and that nothing happens to them through interop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interop import matrix
from tests.gpu.conftest import described_run

RECORD = Path(__file__).with_name("matrix.json")


@pytest.mark.filterwarnings("ignore:.*Grid size")
@pytest.mark.needs("cupy", "numba", "torch")
def test_the_matrix():
    rows = matrix.measure()
    RECORD.write_text(json.dumps({**described_run(), "rows": rows}, indent=2) + "\n")
    ours = [row for row in rows if row["route"] == matrix.OURS]
    assert len(ours) == 7
    assert {row[when] for row in ours for when in ("inside", "after")} == {matrix.ORDERED}
    # The control: by default there are races, and blocked hosts, in the very same runs.
    default = {row[when] for row in rows if row["route"] != matrix.OURS for when in ("inside", "after")}
    assert {matrix.RACE, matrix.BLOCKED} <= default


@pytest.mark.needs("cupy", "torch")
def test_the_command():
    command = [sys.executable, "-m", "interop", "matrix", "--json", "--only", "cupy,torch"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert {row["producer"] for row in json.loads(result.stdout)} == {"cupy", "torch"}
    result = subprocess.run([*command[:-1], "cupyy"], capture_output=True, text=True, timeout=100)
    assert result.returncode == 2
    assert "no such library here: cupyy" in result.stderr
