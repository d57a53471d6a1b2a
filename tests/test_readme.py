"""The README: its programs run as they are written, here those that need no GPU, in tests/gpu all the others.

And on all pages: what states measurements is what the files of these say, and the links lead somewhere.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

import interop
from benchmarks import goals, growth, pingpong
from benchmarks.lab import Lab
from benchmarks.measure import Measured
from benchmarks.operations import Calls
from benchmarks.results import Results
from docs import update
from interop import sim
from interop.errors import RaceError
from tests.gpu import record

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"(<!-- gpu -->\n)?```python\n(.*?)```", README.read_text(), re.DOTALL)
PROGRAMS = [program for _, program in BLOCKS]
SIMULATED = [program for _, program in BLOCKS if "interop.sim" in program]
"""These bring their own simulation."""
FOR_A_GPU = [program for gpu, program in BLOCKS if gpu]
ANYWHERE = [program for gpu, program in BLOCKS if not gpu and program not in SIMULATED]
"""These run on a GPU and on the simulator, each by itself."""

page = pytest.mark.parametrize("path", update.PAGES, ids=lambda path: path.name)


def execute(program, names=None):
    exec(compile(program, "train.py", "exec"), {} if names is None else names)


# -- programs ------------------------------------------------------------------------------------------------------


def test_there_are_programs():
    assert len(SIMULATED) == 2
    assert len(FOR_A_GPU) == 4
    assert len(ANYWHERE) == 3
    assert not set(FOR_A_GPU) & set(SIMULATED)
    assert len(re.findall(r"^```py", README.read_text(), re.MULTILINE)) == len(PROGRAMS)


@pytest.mark.parametrize("program", FOR_A_GPU)
def test_what_runs_on_a_gpu_only_is_python(program):
    compile(program, "README.md", "exec")


def test_the_simulated_program(capsys):
    execute(SIMULATED[-1])
    assert capsys.readouterr().out == "[9.]\n"


def test_the_simulated_program_without_its_wait_is_a_race():
    line = "    interop.as_stream(consumer).wait_stream(producer)  # without this line: RaceError\n"
    assert line in SIMULATED[-1]
    with pytest.raises(RaceError):
        execute(SIMULATED[-1].replace(line, ""))


def test_the_ledgers_report_is_what_is_printed(capsys):
    (shown,) = re.findall(r"```text\n(.*?)```", README.read_text(), re.DOTALL)
    execute(SIMULATED[0])
    assert capsys.readouterr().out == shown


def test_the_programs_for_anywhere(capsys):
    for program in ANYWHERE:
        with sim.simulate():
            execute(program)
    shown = capsys.readouterr().out
    assert "write" in shown  # the timeline's table
    assert interop.__version__ in shown  # the doctor's


# -- measurements --------------------------------------------------------------------------------------------------


@page
def test_what_states_measurements_is_what_was_measured(path):
    assert path.read_text() == update.updated(path.read_text()), "make docs"


def test_every_part_is_on_a_page():
    marked = [name for path in update.PAGES for name in re.findall(r"<!-- /([a-z-]+) -->", path.read_text())]
    assert sorted(marked) == sorted(update.SECTIONS)


def test_a_measurement_that_was_changed_by_hand_is_written_anew():
    text = README.read_text()
    changed = re.sub(r"<!-- gpu-suite -->\n.*\n", "<!-- gpu-suite -->\n9 failed\n", text)
    assert changed != text
    assert update.updated(changed) == text


@pytest.mark.parametrize("name", update.SECTIONS)
def test_without_its_file_a_part_says_what_writes_it(name, tmp_path):
    path, how, _ = update.SECTIONS[name]
    path, _, entry = path.partition("#")
    text = update.updated(f"before\n<!-- {name} -->\nold\n<!-- /{name} -->\nafter\n", tmp_path)
    what = f"entry `{entry}` in `{path}`" if entry else f"`{path}`"
    assert text == (
        f"before\n<!-- {name} -->\n*Not measured yet: there is no {what}, which `{how}` writes.*\n"
        f"<!-- /{name} -->\nafter\n"
    )
    if entry:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text('{"another": {}}')
        assert update.updated(text, tmp_path) == text


def test_a_part_that_nobody_writes_is_an_error():
    with pytest.raises(KeyError, match="weather"):
        update.updated("<!-- weather -->\n<!-- /weather -->\n")


def test_the_summary_counts_every_case(tmp_path):
    rows = [
        {"producer": "cupy", "consumer": "torch", "route": route, "inside": "ordered", "after": after, "back": back}
        for route, after, back in (
            ("torch.as_tensor", "RACE", "error: no"),
            ("interop.handoff", "ordered", "-"),
            ("interop.borrow", "ordered", "ordered"),
        )
    ]
    about = {"gpu": "a GPU", "gpus": 2, "driver": "1", "date": "today", "versions": {"cupy": "2", "warp": None}}
    path = tmp_path / "tests/gpu/matrix.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**about, "rows": rows}))
    assert update.updated("<!-- matrix-summary -->\n<!-- /matrix-summary -->", tmp_path).splitlines()[1:-1] == [
        "| from ↓ to → | PyTorch |",
        "|---|---|",
        "| CuPy | **RACE** |",
        "",
        "By default, of all 3 cases: 1 ordered, 1 **RACE**, 1 error.  ",
        "By `interop.handoff` and `interop.borrow`, of all 5 cases: 5 ordered.  ",
        "(a GPU, driver 1, today; [versions and rows](tests/gpu/matrix.json).)",
    ]


def test_what_the_gpu_tests_measured(tmp_path):
    (tmp_path / "tests/gpu").mkdir(parents=True)
    about = {"gpu": "a GPU", "driver": "1", "date": "today"}
    rows = [{"bug": "event_never_recorded", "ledger": "race", "through interop": "UnrecordedEventError", "fix": "..."}]
    entries = {"bugs": {**about, "rows": rows}, "asyncio": {**about, "streams": 7, "cpu_share": 0.0285}}
    (tmp_path / "tests/gpu/measured.json").write_text(json.dumps(entries))
    assert update.updated("<!-- bugs -->\n<!-- /bugs -->", tmp_path).splitlines()[1:-1] == [
        "| bug | ledger | through interop |",
        "|---|---|---|",
        "| event never recorded | race | UnrecordedEventError |",
        "",
        "(a GPU, driver 1, today.)",
    ]
    assert update.updated("<!-- asyncio -->\n<!-- /asyncio -->", tmp_path).splitlines()[1:-1] == [
        "7 streams, awaited at once in one loop, took 2.9% of a core (a GPU, driver 1, today)."
    ]


def test_the_doctor_is_shown_as_it_was_printed(tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    entry = {"gpu": "GPU", "driver": "1", "date": "today", "shown": "interop doctor\n\n  driver  1"}
    (tmp_path / "tests" / "gpu" / "measured.json").write_text(json.dumps({"doctor": entry}))
    assert update.updated("<!-- doctor -->\n<!-- /doctor -->", tmp_path).splitlines()[1:-1] == [
        "```console",
        "interop doctor",
        "",
        "  driver  1",
        "```",
        "",
        "(GPU, driver 1, today.)",
    ]


def test_a_quick_run_says_so(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    about = {"gpu": "a GPU", "gpus": 1, "driver": "1", "date": "today", "versions": {}}
    for quick in (True, False):
        Results(machine=about, options={"quick": quick}).write(tmp_path / "benchmarks/results.json")
        text = update.updated("<!-- benchmarks -->\n<!-- /benchmarks -->", tmp_path)
        assert ("a quick run" in text) is quick


def test_a_run_of_other_code_says_so(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    about = {"gpu": "a GPU", "gpus": 1, "driver": "1", "date": "today", "versions": {}}
    sums = {"interop_sha256": update.interop_sha256(), "benchmarks_sha256": update.benchmarks_sha256()}
    for what, said in (
        (None, ()),
        ("interop_sha256", ("The code",)),
        ("benchmarks_sha256", ("The benchmarks",)),
    ):
        Results(machine={**about, **sums, **({what: "another"} if what else {})}).write(
            tmp_path / "benchmarks/results.json"
        )
        text = update.updated("<!-- benchmarks -->\n<!-- /benchmarks -->", tmp_path)
        assert re.findall(r"(.*?) ha(?:s|ve) been changed since that run\.", text) == [*said]


def rows(operation, size=None, calls=17, group="call", reference="C", **labels):
    """Rows of one operation, each of two batches that take the same time: nanoseconds by label."""
    return [
        Measured(operation, group, size, True, reference, label, "", calls, [ns, ns])  # noqa: FBT003
        for label, ns in labels.items()
    ]


def written(section, tmp_path, found):
    (tmp_path / "benchmarks").mkdir(exist_ok=True)
    Results(rows=found).write(tmp_path / "benchmarks/results.json")
    return update.updated(f"<!-- {section} -->\n<!-- /{section} -->", tmp_path).splitlines()[1:-1]


def test_what_is_not_fast(tmp_path):
    cupy = rows("wait_event, CuPy's event", C=200, interop=5700)
    threads = rows("wait_stream, in many threads", 8, C=600, interop=6300)
    threads += rows("wait_stream, in many threads", C=600, interop=600)
    wrapped = rows("wrap an object with __cuda_stream__", **{"C": 1, "interop": 900, "cuda.core": 500, "CuPy": 1000})
    faster = rows("enter and leave, CuPy", interop=100, CuPy=101)
    (line,) = written("not-fast", tmp_path, cupy + threads + wrapped + faster)
    assert line == (
        "What is not fast: another library's event (`wait_event` of CuPy's: 28.5 times C); wrapping an object with "
        "`__cuda_stream__` (1.8 times cuda.core); `wait_stream` in eight threads at once, "
        "where each call gives up the GIL, which C does without (10.5 times C)."
    )
    assert written("not-fast", tmp_path, faster) == [""]


def test_what_may_be_slow_is_measured(tmp_path):
    measured = {
        (operation.name, operation.size, row.label)
        for operation in (*Calls(Lab(tmp_path)).all(), *growth.all_operations(Lab(tmp_path)))
        for row in operation.rows
    }
    for beside in (beside for found in update._SLOW.values() for beside in found):
        for label in (beside.label, "interop"):
            assert (beside.operation, beside.size, label) in measured


def test_interop_beside_the_functions_of_the_driver(tmp_path):
    found = rows("query", **{"C": 200, "C, driver": 160, "interop": 240}) + rows("synchronize", C=200, interop=300)
    text = " ".join(written("from-c", tmp_path, found))
    assert "Against the driver's own calls from C it is: query 1.50. Of three" in text
    assert "driver's own" not in " ".join(written("from-c", tmp_path, found[2:]))


def test_the_goals_that_are_missed(tmp_path):
    found = rows("wait_event", **{"C": 200, "cuda.core": 200, "interop": 210}) + rows("to(cupy) again", interop=1234)
    line, beyond = written("goals", tmp_path, found)
    assert line.startswith("Of the 33 goals in [benchmarks/results.md](benchmarks/results.md), ")
    assert line.endswith(
        " were not measured in that run, and 2 are missed: wait_event (1.05 times cuda.core, goal 1); to(cupy) again "
        "(1,234 ns, goal 100)."
    )
    assert beyond == "Of 2 more that go beyond them, 2 were not measured in that run, and 0 are missed."
    line, _ = written("goals", tmp_path, rows("to(cupy) again", interop=99))
    assert line.endswith("0 are missed.")


def test_goals_that_were_not_measured_are_none_that_are_met(tmp_path, monkeypatch):
    monkeypatch.setattr(goals, "GOALS", [goals.Goal("to(cupy) again", None, 100)])
    line, beyond = written("goals", tmp_path, rows("to(cupy) again", interop=99))
    assert line == "Of the 1 goals in [benchmarks/results.md](benchmarks/results.md), 0 are missed."
    assert beyond == "Of 0 more that go beyond them, 0 are missed."
    line, _ = written("goals", tmp_path, [])
    assert "1 were not measured in that run, and 0 are missed." in line


def test_goals_beyond_the_others_are_missed_apart(tmp_path):
    ways = {pingpong.SHARED: 100, pingpong.DEFAULT: 300, pingpong.BY_WAIT: 105, pingpong.BY_KEPT_HANDOFF: 130}
    found = rows("CuPy <-> Numba", group="ping-pong", reference=pingpong.SHARED, **ways)
    line, beyond = written("goals", tmp_path, found)
    assert line.endswith("0 are missed.")
    assert beyond == (
        "Of 2 more that go beyond them, 1 is missed: CuPy <-> Numba: interop, handoff, views kept (1.30 times one "
        "shared stream, goal 1.25)."
    )


def test_rounds_by_handover(tmp_path):
    ways = {pingpong.SHARED: 100, pingpong.HOST: 128, pingpong.DEFAULT: 320, pingpong.BY_HANDOFF: 160}
    ways[pingpong.BY_NEW_HANDOFF] = 640
    found = rows("CuPy <-> Numba", calls=9, group="ping-pong", reference=pingpong.SHARED, **ways)
    text = " ".join(written("there-and-back", tmp_path, found))
    assert "about 9 rounds with one conversion each, a CuPy <-> Numba round took 1.60 times one shared stream, " in text
    assert "and was 2.0 times as fast as reading" in text
    assert " It was slower than synchronising the host (1.2 times as long). With" in text
    host, reading = (
        "synchronising the host (5.0 times as long)",
        "reading each other's array interface (2.0 times as long)",
    )
    assert f" A round with a hand-over that is new was slower than {host} and than {reading}. " in text
    ways |= {pingpong.HOST: 1000, pingpong.DEFAULT: 640}
    as_fast = rows("CuPy <-> Numba", calls=9, group="ping-pong", reference=pingpong.SHARED, **ways)
    assert "slower" not in " ".join(written("there-and-back", tmp_path, as_fast))
    assert "rounds with" not in " ".join(written("there-and-back", tmp_path, found[:3]))


@pytest.mark.parametrize("code", [record.interop_sha256(), "0" * 64])
def test_the_gpu_suite_ran_on_this_code_or_on_another_one(code, tmp_path):
    last = json.loads((ROOT / "tests/gpu/last_run.json").read_text())
    (tmp_path / "tests/gpu").mkdir(parents=True)
    (tmp_path / "tests/gpu/last_run.json").write_text(json.dumps({**last, "interop_sha256": code}))
    text = update.updated("<!-- gpu-suite -->\n<!-- /gpu-suite -->", tmp_path)
    assert f"`{code[:12]}...`" in text
    assert ("The code has been changed since" in text) is (code != record.interop_sha256())


def test_the_command(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    shutil.copy(README, copy)
    copy.write_text(
        re.sub(
            r"<!-- matrix -->\n.*?<!-- /matrix -->",
            "<!-- matrix -->\n<!-- /matrix -->",
            copy.read_text(),
            flags=re.DOTALL,
        )
    )
    monkeypatch.setattr(update, "PAGES", (copy,))
    update.main()
    assert copy.read_text() == README.read_text()


# -- what else is said ---------------------------------------------------------------------------------------------


@page
def test_links(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        target, _, heading = link.partition("#")
        found = path.parent / target if target else path
        assert found.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings], link


def test_the_table_of_libraries_is_what_the_adapters_have():
    for line in re.findall(r"^\| `([a-z.]+)` \| (.*) \|$", README.read_text(), re.MULTILINE):
        library, cells = line[0], [cell.startswith("✓") for cell in line[1].split(" | ")]
        code = ast.parse((ROOT / "interop/adapters" / f"{library.replace('.', '_')}.py").read_text())
        (adapter,) = [node for node in code.body if isinstance(node, ast.ClassDef) and node.name.endswith("Adapter")]
        has = {node.name for node in adapter.body if isinstance(node, ast.FunctionDef)} | {
            node.targets[0].id
            for node in adapter.body
            if isinstance(node, ast.Assign) and getattr(node.value, "value", None) is True
        }
        no_streams = library == "jax"
        assert cells[:3] == [not no_streams, not no_streams, "event_handle" in has], library
        assert cells[4:] == ["has_current_stream" in has, "is_array" in has, "makes_arrays" in has], library
