"""The table of what happens to arrays by default, and that nothing happens to them through interop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interop import matrix
from interop.matrix.libraries import LIBRARIES
from tests.gpu.record import described_run

RECORD = Path(__file__).with_name("matrix.json")
CONSUMERS = ("cupy", "numba", "torch", "jax", "cuda.core")


@pytest.mark.filterwarnings("ignore:.*Grid size")
@pytest.mark.needs("cupy", "numba", "torch", "jax", "cuda.core", "rmm")
@pytest.mark.timeout(240)
def test_the_matrix(watchdog):
    watchdog(230)
    rows = matrix.measure()
    RECORD.write_text(json.dumps({**described_run(), "rows": rows}, indent=2) + "\n")
    ours = [row for row in rows if row["route"] in matrix.OURS]
    # Numba hands over to itself too: its arrays are bound to no stream.
    pairs = {(p, c) for p in LIBRARIES for c in CONSUMERS if p != c or p == "numba"}
    assert {(row["producer"], row["consumer"]) for row in ours} == pairs
    assert len(ours) == 2 * len(pairs)
    wrong = [row for row in ours if {row[when] for when in matrix.WHEN} - {matrix.ORDERED, matrix.NONE}]
    assert not wrong
    # What there is not: a way back where nothing can be written, and streams of JAX's that could be waited for.
    for row in ours:
        nothing = {when for when in matrix.WHEN if row[when] == matrix.NONE}
        if row["consumer"] == "jax":
            assert nothing == ({"back"} if row["route"] == matrix.HANDOFF else set(matrix.WHEN))
        else:
            assert nothing == ({"back"} if row["producer"] == "jax" else set())
    # The control: by default there are races, and blocked hosts, in the very same runs.
    default = {row[when] for row in rows if row["route"] not in matrix.OURS for when in matrix.WHEN}
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
