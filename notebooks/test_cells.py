"""What interop's errors and objects look like in the cells of a notebook, which a real kernel runs."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import sys
import interop
from interop.sim import explore, simulate

def fill(x): x[:] = 3
def square(x, y): y[:] = x * x

def program(gpu):
    a, b = gpu.stream("a"), gpu.stream("b")
    x, y = gpu.array([0.0], "x"), gpu.array([0.0], "y")
    gpu.launch(a, fill, writes=[x])
    gpu.launch(b, square, reads=[x], writes=[y])
    interop.as_stream(b).synchronize()
    assert gpu.read(y) == 9

def declared(**options):
    with simulate() as gpu:
        a, b = gpu.stream("a"), gpu.stream("b")
        x = gpu.array([0.0], "x")
        with interop.ordering.check(**options) as ledger:
            ledger.writes(x, a)
            ledger.reads(x, b)
        return ledger
"""
CELLS = {
    "setup": SETUP,
    "race": "with simulate() as gpu:\n    program(gpu)",
    "ledger's race": "declared()",
    "another error": "interop.as_stream('nonsense')",
    "all frames": "get_ipython().InteractiveTB.skip_hidden = False\ninterop.as_stream('nonsense')",
    "kernel": "def bad(x): raise KeyError(x)\nwith simulate() as gpu:\n"
    "    gpu.launch(gpu.stream('a'), bad, writes=[gpu.array(0)])",
    "ledger": "declared(raises=False)",
    "exploration": "explored = explore(program)\nexplored",
    "its parts": "explored.races, explored.failure",
    "doctor": "interop.doctor()",
    "stream": "with simulate() as gpu:\n    stream = interop.new_stream()\n    display(stream)",
    "new timeline": "interop.Timeline()",
    "empty timeline": "with simulate() as gpu, interop.Timeline() as empty: pass\nempty",
    "empty table": "empty.table()",
    "timeline": "with simulate() as gpu, interop.Timeline() as drawn, drawn.span('s', gpu.stream('a')): pass\ndrawn",
    "table": "drawn.table()",
    "no matplotlib": "sys.modules['matplotlib'] = None\ndel sys.modules['interop.timeline.picture']\ndrawn",
}


@pytest.fixture(scope="module")
def outputs():
    """For each cell, its only output: the text of an error, or what is shown, by MIME type; None if there is none."""
    cells = map(nbformat.v4.new_code_cell, CELLS.values())
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    NotebookClient(notebook, timeout=100, kernel_name="python3", allow_errors=True).execute()
    return {name: _only(cell.outputs) for name, cell in zip(CELLS, notebook.cells, strict=True)}


def _only(outputs):
    (output,) = outputs or [None]
    if output is not None and output.output_type == "error":
        return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
    return output and output.get("data", output)


def number(name):
    """The number of a cell."""
    return 1 + list(CELLS).index(name)


def test_a_race_is_its_message_and_the_users_lines(outputs):
    shown = outputs["race"]
    cell = number("setup")
    assert "interop/" not in shown
    assert "contextlib" not in shown
    assert f"kernel 'fill' on a (In [{cell}], line 11), which writes it" in shown
    assert f"kernel 'square' on b (In [{cell}], line 12), which reads it" in shown
    assert re.findall(r"^Cell In\[(\d+)\], line (\d+)", shown, re.MULTILINE) == [
        (str(number("race")), "2"),
        (str(cell), "12"),
    ]


@pytest.mark.parametrize("name", ["ledger's race", "another error"])
def test_the_frames_of_interop_are_hidden(name, outputs):
    assert "\nCell In[" in outputs[name]
    assert "interop/" not in outputs[name]


def test_they_are_shown_to_those_who_ask(outputs):
    assert "interop/" in outputs["all frames"]


def test_an_error_in_a_kernel_names_the_launch(outputs):
    last = outputs["kernel"].splitlines()[-1]
    assert last == f"raised by kernel 'bad', which was launched on a at In [{number('kernel')}], line 3"


def test_a_ledger_shows_what_it_found(outputs):
    assert outputs["ledger"]["text/plain"].startswith("1 race and 0 unknown in 2 accesses\nrace on x: nothing orders\n")


def test_an_exploration_shows_what_it_found(outputs):
    shown = outputs["exploration"]["text/plain"]
    assert shown.startswith(
        "SIMULATED exploration: 2 schedules, all there are; one failed with AssertionError, 1 race\n"
    )
    assert "\n1 outcome: None\nrace on x: nothing orders\n" in shown
    assert "\nThis schedule fails:\n  1. kernel 'square' ran on b" in shown
    assert "(race on x: nothing orders\n" in outputs["its parts"]["text/plain"]


def test_the_doctor_and_a_stream_are_tables(outputs):
    assert "<table" in outputs["doctor"]["text/html"]
    assert "<table" in outputs["stream"]["text/html"]


def test_an_empty_timeline_is_a_line_of_text(outputs):
    assert outputs["new timeline"] == {"text/plain": "<interop.Timeline, not entered yet>"}
    assert outputs["empty timeline"] == {
        "text/plain": "<SIMULATED interop.Timeline: 0 spans and 0 arrows on 0 streams>"
    }
    assert outputs["empty table"]["text/plain"].startswith("nothing was recorded")
    assert "<table" not in outputs["empty table"]["text/html"]


def test_a_timeline_is_a_picture_and_its_table_is_one(outputs):
    assert outputs["timeline"]["text/plain"] == "<SIMULATED interop.Timeline: 1 span and 0 arrows on 1 stream>"
    assert outputs["timeline"]["image/png"].startswith("iVBORw0KGgo")
    assert "<td" in outputs["table"]["text/html"]


def test_without_matplotlib_a_timeline_says_what_it_needs(outputs):
    assert set(outputs["no matplotlib"]) == {"text/plain"}
    assert (
        "\nthe picture of a timeline needs matplotlib: pip install matplotlib" in outputs["no matplotlib"]["text/plain"]
    )
