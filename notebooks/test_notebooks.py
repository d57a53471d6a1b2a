"""The notebooks are valid, were run without errors, and pass ruff. The one that needs no GPU is run here."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notebooks.execute import executed

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ANYWHERE = FOLDER / "00_no_gpu.ipynb"

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_notebooks_are_there():
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04"]


@every
def test_a_notebook_is_valid(path):
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))


@every
def test_cells_are_short_and_explained(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(cells) // 3


@every
def test_links_lead_to_files(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^):]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (FOLDER / target).exists(), target


@every
def test_the_outputs_have_no_error(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert not [
            output for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"
        ]


@every
def test_the_notebook_was_run_from_top_to_bottom(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) // 3
    if path != ANYWHERE:
        assert "NVIDIA" in str(cells[0].outputs)
        assert "SIMULATED" not in str([cell.outputs for cell in cells])


@every
def test_the_host_was_free(path):
    """Each time a notebook asks whether its work is done, the output is False: the host was not blocked."""
    for cell in code_cells(nbformat.read(path, as_version=4)):
        asked = cell.source.count("is the work done?")
        printed = "".join(output.get("text", "") for output in cell.outputs)
        assert re.findall(r"is the work done\? (\w+)$", printed, re.MULTILINE) == ["False"] * asked


@every
def test_a_notebook_has_pictures(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=lambda arguments: arguments[0])
def test_notebooks_pass_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", *NOTEBOOKS]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_notebook_without_a_gpu_has_the_committed_outputs():
    fresh, committed = executed(ANYWHERE), nbformat.read(ANYWHERE, as_version=4)
    for now, then in zip(code_cells(fresh), code_cells(committed), strict=True):
        assert [comparable(output) for output in now.outputs] == [comparable(output) for output in then.outputs]


def comparable(output):
    """An output without the bytes of its pictures, which differ from machine to machine."""
    data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    return output.output_type, output.get("name"), output.get("text"), data, "image/png" in output.get("data", {})
