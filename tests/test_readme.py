"""The programs in the README run as they are written: here those that need no GPU, in tests/gpu all the others."""

import json
import re
from pathlib import Path

import pytest

from interop import sim
from interop.errors import RaceError
from interop.matrix import report

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SIMULATED = [program for program in PROGRAMS if "interop.sim" in program]
PROOFS = [program for program in PROGRAMS if "interop.testing" in program]


def test_the_table_is_the_recorded_one():
    rows = json.loads((README.parent / "tests/gpu/matrix.json").read_text())["rows"]
    shown = README.read_text().split("<!-- matrix -->")[1].split("<!-- /matrix -->")[0]
    assert shown.strip().splitlines() == list(report.markdown(rows))


def test_there_are_programs():
    assert len(PROGRAMS) >= 4
    assert len(SIMULATED) == len(PROOFS) == 1


def test_the_simulated_program(capsys):
    exec(compile(SIMULATED[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "[9.]\n"


def test_the_simulated_program_without_its_wait_is_a_race():
    line = "    interop.as_stream(consumer).wait_stream(producer)  # without this line: RaceError\n"
    assert line in SIMULATED[0]
    with pytest.raises(RaceError):
        exec(compile(SIMULATED[0].replace(line, ""), "README.md", "exec"), {})


def test_the_proofs():
    with sim.simulate():
        exec(compile(PROOFS[0], "README.md", "exec"), {})
