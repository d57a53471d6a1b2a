"""The matrix of hand-overs: without interop there are races and blocked hosts, and with interop there are none."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from interop import matrix
from interop.matrix.libraries import LIBRARIES
from tests.gpu.record import described_run

RECORD = Path(__file__).with_name("matrix.json")
CONSUMERS = ("cupy", "numba", "numba_cuda_mlir", "torch", "jax", "cuda.core")
MISSING = {library for library in ("numba_cuda_mlir",) if not find_spec(library)}  # the test needs all others


@pytest.mark.filterwarnings("ignore:.*Grid size")
@pytest.mark.needs("cupy", "numba", "torch", "jax", "cuda.core", "rmm")
@pytest.mark.timeout(360)
def test_handovers_by_interop_are_ordered_and_others_race(watchdog):
    watchdog(350)
    rows = matrix.measure()
    RECORD.write_text(json.dumps({**described_run(), "rows": rows}, indent=2) + "\n")
    ours = [row for row in rows if row["route"] in matrix.OURS]
    # Numba also hands over to itself, because its arrays belong to no stream.
    pairs = {(p, c) for p in LIBRARIES for c in CONSUMERS if p != c or p.startswith("numba")}
    pairs = {pair for pair in pairs if not MISSING & {*pair}}
    assert {(row["producer"], row["consumer"]) for row in ours} == pairs
    assert len(ours) == 2 * len(pairs)
    wrong = [row for row in ours if {row[when] for when in matrix.WHEN} - {matrix.ORDERED, matrix.NONE}]
    assert not wrong
    # There is no way back where nothing can be written, and none from JAX, whose streams nobody can wait for.
    for row in ours:
        nothing = {when for when in matrix.WHEN if row[when] == matrix.NONE}
        if row["consumer"] == "jax":
            assert nothing == ({"back"} if row["route"] == matrix.HANDOFF else set(matrix.WHEN))
        else:
            assert nothing == ({"back"} if row["producer"] == "jax" else set())
    # The control: the same runs without interop have races and blocked hosts.
    default = {row[when] for row in rows if row["route"] not in matrix.OURS for when in matrix.WHEN}
    assert {matrix.RACE, matrix.BLOCKED} <= default


@pytest.mark.needs("cupy", "torch")
def test_the_command_measures_the_named_libraries():
    command = [sys.executable, "-m", "interop", "matrix", "--json", "--only", "cupy,torch"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert {row["producer"] for row in json.loads(result.stdout)} == {"cupy", "torch"}
    result = subprocess.run([*command[:-1], "cupyy"], capture_output=True, text=True, timeout=100)
    assert result.returncode == 2
    assert "no such library here: cupyy" in result.stderr
