"""The README and the pages of docs/: their programs run as they are written.

Here run those that need no GPU, in tests/gpu all the others. And on all pages: what states measurements is what the
files of these say, and the links lead somewhere.
"""

import json
import re
import shutil
from collections import Counter
from dataclasses import asdict

import pytest

from benchmarks import handovers
from benchmarks.lab import OURS, PEERS
from benchmarks.measure import Measured
from benchmarks.results import Results, Table
from docs import update
from interop import demo, matrix, sim
from interop.adapters.table import BINDINGS_VARIABLE, TABLE
from tests import pages
from tests.adapter_code import adapter_of
from tests.gpu import record
from tests.pages import README, ROOT

PROGRAMS = pages.programs(README)
WORDS = 1200
COLUMNS = 88

page = pytest.mark.parametrize("path", update.PAGES, ids=pages.name)


# -- the README ----------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(re.findall(r"\S*\w\S*", README.read_text())) <= WORDS


def test_code_and_output_in_the_readme_fit_a_phone_and_a_page():
    blocks = re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert [line for program in PROGRAMS for line in program.text.splitlines() if re.search(r"\S\s+#", line)] == []


def test_each_program_of_the_readme_runs_alone():
    assert [program.for_a_gpu for program in PROGRAMS] == [True, True, False]
    assert PROGRAMS[2].simulated
    PROGRAMS[2].run({})


def test_without_its_wait_the_program_fails():
    line = "consumer.wait_stream(producer)\n"
    assert PROGRAMS[2].text.count(line) == 1
    with pytest.raises(AssertionError, match="not ordered"):
        PROGRAMS[2]._replace(text=PROGRAMS[2].text.replace(line, "pass\n")).run({})


@pytest.mark.needs("no_gpu")
def test_the_output_of_the_demo_is_what_is_printed(capsys):
    (shown,) = re.findall(r"<!-- demo -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert demo.main(forget_wait=True) == 0
    assert shown in capsys.readouterr().out.replace(f"{ROOT}/", "")


# -- programs ------------------------------------------------------------------------------------------------------


@page
def test_every_block_of_python_is_a_program_or_has_a_test_of_its_own(path):
    text = path.read_text()
    of_its_own = re.findall(r"<!-- (?:project: [^\n]*|with: [^\n]*|adapter) -->\n```python", text)
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


# -- measurements --------------------------------------------------------------------------------------------------


@page
def test_the_tables_of_measurements_are_those_that_were_measured(path):
    assert path.read_text() == update.updated(path.read_text()), "make docs"


def test_every_section_is_on_a_page():
    marked = [name for path in update.PAGES for name in re.findall(r"<!-- /([a-z-]+) -->", path.read_text())]
    assert sorted(marked) == sorted(update.SECTIONS)


def test_a_measurement_that_was_changed_by_hand_is_written_anew():
    text = README.read_text()
    changed = re.sub(r"^\| wait_event .*\n", "| wait_event | 0.01 |\n", text, flags=re.MULTILINE)
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
        "(a GPU, driver 1, today; [versions and rows](../tests/gpu/matrix.json).)",
    ]


def test_the_readme_has_the_figures_of_the_matrix():
    rows = json.loads((ROOT / "tests/gpu/matrix.json").read_text())["rows"]
    seen = Counter((row["route"] in matrix.OURS, row[when].partition(":")[0]) for row in rows for when in matrix.WHEN)
    cases = [sum(n for (ours, what), n in seen.items() if ours == by and what != matrix.NONE) for by in (False, True)]
    outcomes = [seen[False, what] for what in (matrix.RACE, matrix.FAILED, matrix.BLOCKED)]
    said = " ".join(README.read_text().split())
    assert (
        f"Of {cases[0]} ways to hand an array over without interop, {outcomes[0]} race, {outcomes[1]} are refused and "
        f"{outcomes[2]} block the host. Of {cases[1]} ways by interop, {seen[True, matrix.ORDERED]} are ordered" in said
    )


def test_how_it_compares_is_what_the_benchmark_measured():
    said = " ".join((ROOT / "docs/how_it_compares.md").read_text().split())
    table = Table(Results.read(ROOT / "benchmarks/results.json").rows)
    costs = {
        (source, target): ratio.median
        for source, target in handovers.WAYS
        for own in handovers.OWN[target]
        if (ratio := table.ratio(handovers.name(source, target), OURS, own))
    }
    into_core = [cost for (_, target), cost in costs.items() if target == "cuda.core"]
    others = [cost for (_, target), cost in costs.items() if target != "cuda.core"]
    assert "between CuPy, PyTorch, Numba and JAX, from a little less to three times as much" in said
    assert min(others) < 1 < max(others) <= 3
    assert "into cuda.core far more" in said
    assert min(into_core) > 3
    waits = [table.ratio(call, OURS, peer) for call in ("wait_event", "wait_stream") for peer in PEERS]
    assert "A wait costs what the fastest library's own does, give or take a tenth, or less" in said
    assert max(wait.median for wait in waits if wait) <= 1.1


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
        "| passed | failed | skipped | GPUs | where and when | by the code that is here |",
        "|---|---|---|---|---|---|",
        f"| 1,234 | 5 | 0 | 2 | a GPU, driver 1, today | {same} |",
    ]
    results = {"machine": run, "options": {"batches": 60}, "rows": [], "python": [], "left": []}
    lines = written("benchmarks", tmp_path, "benchmarks/results.json", results)
    assert lines[-1] == f"| 60 | a GPU, driver 1, today | {same} |"


def test_the_versions_are_those_of_each_run(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/results.json").write_text(
        json.dumps({"machine": {**ABOUT, "date": "later", "versions": {"cupy": "3", "torch": "4"}}})
    )
    assert written("versions", tmp_path, "tests/gpu/last_run.json", ABOUT) == [
        "| package | GPU suite, today | benchmarks, later |",
        "|---|---|---|",
        "| cupy | 2 | 3 |",
        "| torch | \N{EN DASH} | 4 |",
    ]


def test_the_tables_of_speed(tmp_path):
    times = {"wait_stream": {"interop": 300, "C": 200, "CuPy": 900}}
    times["handoff, CuPy to torch"] = {"interop": 20_000, "torch.from_dlpack": 16_000, "torch.as_tensor": 10_000}
    rows = [Measured(name, label, "", 9, [ns] * 2) for name, of in times.items() for label, ns in of.items()]
    content = asdict(Results({**ABOUT}, {"batches": 2}, rows=rows))
    lines = written("benchmarks", tmp_path, "benchmarks/results.json", content)
    assert "| wait_stream | 1.50 |  | 4.50 |  |  |  |" in lines
    assert "| CuPy → torch | 20.0 | 10.0, `torch.as_tensor` | 2.00 |" in lines
    assert "| torch → CuPy |  |  |  |" in lines
    lines = written("speed", tmp_path, "benchmarks/results.json", content)
    assert lines[-3:] == [
        "| wait_stream | 1.50 |  | 4.50 |  |  |  |",
        "",
        "(a GPU, driver 1, today; [all figures](docs/speed.md).)",
    ]


def test_the_command(tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    shutil.copy(README, copy)
    copy.write_text(
        re.sub(
            r"<!-- speed -->\n.*?<!-- /speed -->",
            "<!-- speed -->\n<!-- /speed -->",
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
    lines = re.findall(r"^\| (`[a-z._`, ]+`) \| (.*) \|$", README.read_text(), re.MULTILINE)
    shown = {
        library: [cell == "✓" for cell in re.split(r" [|/] ", cells)]
        for names, cells in lines
        for library in re.findall("[a-z._]+", names)
    }
    assert shown.keys() == TABLE.keys()
    for library, cells in shown.items():
        has = adapter_of(library)[1]
        streams = library != "jax"
        methods = [name in has for name in ("event_handle", "current_stream", "is_array", "make_array")]
        assert cells == [streams, streams, *methods], library


def test_the_table_of_the_libraries_pages_is_what_the_adapters_have():
    text = (ROOT / "docs/libraries/index.md").read_text()
    lines = re.findall(r"^\| \[.*\]\((\w+)\.md\)[^|]* \| (.*) \|$", text, re.MULTILINE)
    names = {name.replace(".", "_"): name for name in TABLE}
    shown = {names.get(page, page): cells.split(" | ") for page, cells in lines}
    none = "\N{EN DASH}"
    assert shown.pop("protocol") == [none, "by a variable", "in", "in"]
    assert shown.keys() == TABLE.keys()
    means = {None: none, "": "legacy", BINDINGS_VARIABLE: "by a variable"}
    for library, (current, null, events, arrays) in shown.items():
        row, has = TABLE[library], adapter_of(library)[1]
        assert (current == "✓") == row.has_current_stream, library
        assert null == means[row.null], library
        assert (events != none) == ("event_handle" in has), library
        assert arrays == ("both ways" if "make_array" in has else "in" if "read" in has else none), library


def test_the_readme_says_what_the_drivers_eye_has_found():
    races = json.loads((ROOT / "tests/gpu/measured.json").read_text())["eye_bugs"]["races"]
    found = [name for name, count in races.items() if count]
    bugs = [name for name in races if name.endswith("bug")]
    assert found == bugs
    text = " ".join(README.read_text().split())
    assert f"Of [{len(bugs)} bugs]" in text
    assert f"it finds {len(found)} and reports no twin" in text
