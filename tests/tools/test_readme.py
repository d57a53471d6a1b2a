"""The README and the pages of docs/: their programs run as they are written.

Here run those that need no GPU, in tests/gpu all the others. And on all pages: what states measurements is what the
files of these say, and the links lead somewhere.
"""

import ast
import json
import re
import shutil
from dataclasses import asdict

import pytest

import interop
from benchmarks.measure import Measured
from benchmarks.results import Results
from docs import update
from interop import sim
from interop.errors import RaceError
from tests import pages
from tests.gpu import record
from tests.pages import README, ROOT

PROGRAMS = pages.programs(README)
SIMULATED = [program.text for program in PROGRAMS if program.simulated]
FOR_A_GPU = [program.text for program in PROGRAMS if program.for_a_gpu]
ANYWHERE = [program.text for program in pages.on_the_simulator(README)]
"""These run on a GPU and on the simulator, each by itself."""

page = pytest.mark.parametrize("path", update.PAGES, ids=pages.name)


def execute(program, names=None):
    exec(compile(program, "train.py", "exec"), {} if names is None else names)


# -- programs ------------------------------------------------------------------------------------------------------


def test_there_are_programs():
    assert len(SIMULATED) == 2
    assert len(FOR_A_GPU) == 4
    assert len(ANYWHERE) == 3
    assert not set(FOR_A_GPU) & set(SIMULATED)


@page
def test_every_block_of_python_is_a_program_or_has_a_test_of_its_own(path):
    text = path.read_text()
    of_its_own = re.findall(r"<!-- (?:project: [^\n]*|adapter) -->\n```python", text)
    assert len(re.findall(r"^ *```{?(?:py|code)", text, re.MULTILINE)) == len(pages.programs(path)) + len(of_its_own)


@page
def test_what_runs_on_a_gpu_only_is_python(path):
    for program in pages.programs(path):
        compile(program.text, str(path), "exec")


@pytest.mark.parametrize("path", pages.PAGES_WITH_PROGRAMS, ids=pages.name)
def test_the_programs_of_a_page(path, capsys):
    def run(program, names):
        program.run(names)
        printed = capsys.readouterr().out
        assert program.shown in (None, printed)

    names = {}
    with sim.simulate():
        for program in pages.on_the_simulator(path):
            run(program, names)
    names = {}
    for program in pages.programs(path):
        if program.simulated:
            run(program, names)


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
def test_the_tables_of_measurements_are_those_that_were_measured(path):
    assert path.read_text() == update.updated(path.read_text()), "make docs"


def test_every_section_is_on_a_page():
    marked = [name for path in update.PAGES for name in re.findall(r"<!-- /([a-z-]+) -->", path.read_text())]
    assert sorted(marked) == sorted(update.SECTIONS)


def test_a_measurement_that_was_changed_by_hand_is_written_anew():
    text = README.read_text()
    changed = re.sub(r"<!-- gpu-suite -->\n.*\n", "<!-- gpu-suite -->\n9 failed\n", text)
    assert changed != text
    assert update.updated(changed) == text


@pytest.mark.parametrize("name", update.SECTIONS)
def test_a_section_without_its_file_says_which_command_writes_it(name, tmp_path):
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


def test_a_section_that_no_function_writes_is_an_error():
    with pytest.raises(KeyError, match="weather"):
        update.updated("<!-- weather -->\n<!-- /weather -->\n")


def written(section, folder, path, content):
    """The lines of a part of a page, made from a file with this content."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps(content))
    return update.updated(f"<!-- {section} -->\n<!-- /{section} -->", folder).splitlines()[1:-1]


ABOUT = {"gpu": "a GPU", "gpus": 2, "driver": "1", "date": "today", "versions": {"cupy": "2", "warp": None}}


def test_the_summary_counts_every_case(tmp_path):
    rows = [
        {"producer": "cupy", "consumer": "torch", "route": route, "inside": "ordered", "after": after, "back": back}
        for route, after, back in (
            ("torch.as_tensor", "RACE", "error: no"),
            ("interop.handoff", "ordered", "-"),
            ("interop.borrow", "ordered", "ordered"),
        )
    ]
    assert written("matrix-summary", tmp_path, "tests/gpu/matrix.json", {**ABOUT, "rows": rows}) == [
        "| from ↓ to → | PyTorch |",
        "|---|---|",
        "| CuPy | **RACE** |",
        "",
        "| cases | **RACE** | error | host blocked | ordered |",
        "|---|---|---|---|---|",
        "| by default | 1 | 1 | 0 | 1 |",
        "| by `interop.handoff` and `interop.borrow` | 0 | 0 | 0 | 5 |",
        "",
        "(a GPU, driver 1, today; [versions and rows](tests/gpu/matrix.json).)",
    ]


def test_what_the_ledger_found_is_a_table(tmp_path):
    rows = [{"bug": "event_never_recorded", "ledger": "race", "through interop": "UnrecordedEventError", "fix": "..."}]
    assert written("bugs", tmp_path, "tests/gpu/measured.json", {"bugs": {**ABOUT, "rows": rows}}) == [
        "| bug | ledger | through interop |",
        "|---|---|---|",
        "| event never recorded | race | UnrecordedEventError |",
        "",
        "(a GPU, driver 1, today.)",
    ]


def test_the_doctor_is_shown_as_it_was_printed(tmp_path):
    entry = {**ABOUT, "shown": "interop doctor\n\n  driver  1"}
    lines = written("doctor", tmp_path, "tests/gpu/measured.json", {"doctor": entry})
    assert lines == ["```console", "interop doctor", "", "  driver  1", "```", "", "(a GPU, driver 1, today.)"]


@pytest.mark.parametrize(("code", "same"), [(record.interop_sha256(), "yes"), ("another", "no")])
def test_the_tables_of_runs_say_whether_the_code_is_still_the_same(code, same, tmp_path):
    run = {**ABOUT, "interop_sha256": code, "passed": 1234, "failed": 5, "skipped": 0}
    assert written("gpu-suite", tmp_path, "tests/gpu/last_run.json", run) == [
        "| passed | failed | skipped | GPUs | versions | where and when | by the code that is here |",
        "|---|---|---|---|---|---|---|",
        f"| 1,234 | 5 | 0 | 2 | cupy 2 | a GPU, driver 1, today | {same} |",
    ]
    results = {"machine": run, "options": {"batches": 60}, "rows": [], "python": [], "left": []}
    lines = written("benchmarks", tmp_path, "benchmarks/results.json", results)
    assert lines[-1] == f"| 60 | a GPU, driver 1, today | {same} |"


def test_the_tables_of_speed(tmp_path):
    times = {"wait_stream": {"interop": 300, "C": 200, "CuPy": 900}}
    times["handoff, CuPy to torch"] = {"interop": 20_000, "torch.from_dlpack": 16_000, "torch.as_tensor": 10_000}
    rows = [Measured(name, label, "", 9, [ns] * 2) for name, of in times.items() for label, ns in of.items()]
    content = asdict(Results({**ABOUT}, {"batches": 2}, rows=rows))
    lines = written("benchmarks", tmp_path, "benchmarks/results.json", content)
    assert "| wait_stream | 1.50 |  | 4.50 |  |  |  |" in lines
    assert "| CuPy → torch | 20.0 | 10.0, `torch.as_tensor` | 2.00 |" in lines
    assert "| torch → CuPy |  |  |  |" in lines


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
        has = {node.name for node in adapter.body if isinstance(node, ast.FunctionDef)}
        no_streams = library == "jax"
        assert cells[:3] == [not no_streams, not no_streams, "event_handle" in has], library
        assert cells[4:] == ["current_stream" in has, "is_array" in has, "make_array" in has], library
