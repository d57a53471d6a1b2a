"""``python -m interop check``, over programs that simulate their GPU; and ``%%interop_check``."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import interop
from interop.ledger.magic import register

PROGRAM = """
import sys
import interop

with interop.sim.simulate() as gpu:
    producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
    x = gpu.array([0.0], name="x")
    with interop.ordering.check(raises=False) as inner:
        inner.writes(x, producer)
        if "wait" in sys.argv:
            interop.as_stream(consumer).wait_stream(producer)
        inner.reads(x, consumer)
    print(len(inner.races), __name__, *sys.argv[1:])
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def check(*arguments, cwd=None):
    command = [sys.executable, "-m", "interop", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd)


def test_a_program_runs_as_it_would_alone(program, tmp_path):
    done = check(program, "wait", "--json")
    assert done.stdout.splitlines()[0] == "0 __main__ wait --json"
    assert "0 races and 0 unknown" in done.stdout
    assert "eye: libraries: the driver's eye stays shut" in done.stdout
    assert done.returncode == 0, done.stderr
    done = check("-m", "program", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "1 __main__"


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [("sys.exit(3)", 3, ""), ("sys.exit('why')", 1, "why"), ("sys.exit()", 0, ""), ("1 / 0", 1, "ZeroDivisionError")],
)
def test_the_status_of_the_program_is_that_of_the_command(tmp_path, end, status, said):
    (tmp_path / "program.py").write_text(f"import sys\n{end}\n")
    done = check("program.py", cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert "command.py" not in done.stderr
    assert "0 races" in done.stdout


def test_json_and_sarif_are_all_that_is_printed(program):
    found = json.loads(check("--json", program).stdout)
    assert found == {"schema": 1, "eye": found["eye"], "races": [], "unknown": [], "blind": []}
    sarif = json.loads(check("--sarif", program).stdout)
    assert sarif["version"] == "2.1.0"
    assert sarif["runs"][0]["tool"]["driver"]["name"] == "interop check"
    assert sarif["runs"][0]["results"] == []


@pytest.mark.parametrize("arguments", [["no_such_file.py"], ["-m", "no_such_module"], []])
def test_what_cannot_be_read_is_named(arguments, tmp_path):
    done = check(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert (arguments or ["PROGRAM"])[-1] in done.stderr


def test_races_make_the_status(monkeypatch, capsys, tmp_path):
    """With a ledger that the test has filled: the simulator's ledger is the program's own."""
    from interop.ledger import command

    path = tmp_path / "program.py"
    path.write_text("print('ran')\n")
    with interop.sim.simulate() as gpu, interop.ordering.check(raises=False) as ledger:
        x = gpu.array([0.0], name="x")
        ledger.writes(x, gpu.stream("producer"))
        ledger.reads(x, gpu.stream("consumer"))
    monkeypatch.setattr(command, "check", lambda **_: _Block(ledger))
    options = {"version": "1", "is_module": False, "fail_on": "race", "eye": None}
    assert command.main([str(path)], form="text", **options) == 1
    assert "race on x" in capsys.readouterr().out
    assert command.main([str(path)], form="json", **options) == 1
    printed = capsys.readouterr()
    assert printed.err == "ran\n"
    (race,) = json.loads(printed.out)["races"]
    assert (race["earlier"]["kind"], race["later"]["kind"]) == ("writes", "reads")
    assert command.main([str(path)], form="sarif", **options) == 1
    (result,) = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"], place["artifactLocation"]["uri"]) == ("race", "error", __file__)
    assert isinstance(place["region"]["startLine"], int)


class _Block:
    def __init__(self, ledger):
        self.ledger = ledger

    def __enter__(self):
        return self.ledger

    def __exit__(self, *_):
        pass


def test_a_cell_runs_under_a_ledger(capsys):
    magics = {}
    shell = SimpleNamespace(
        transform_cell=str,
        execution_count=5,
        user_ns={"value": 1},
        register_magic_function=lambda function, magic_kind: magics.setdefault(magic_kind, function),
    )
    shell.compile = compile
    shell.compile = type("Compile", (), {"__call__": staticmethod(compile), "cache": lambda *_: "<cell>"})()
    register(shell)
    magics["cell"]("libraries", "value += 1\n")
    assert shell.user_ns["value"] == 2
    assert "0 races and 0 unknown" in capsys.readouterr().out
    with pytest.raises(ValueError, match="eye is"):
        magics["cell"]("keen", "")
