"""Run notebooks from top to bottom, and keep their outputs: ``python notebooks/execute.py notebooks/01_*.ipynb``.

Needs nbclient and ipykernel, of the extra ``notebook``, and, for all but ``00_no_gpu.ipynb``, a GPU.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs. Raises nbclient's error if a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    # The kernel's description of itself differs from machine to machine, so the committed metadata stay.
    notebook.metadata = nbformat.read(path, as_version=4).metadata
    return notebook


def main(arguments: list[str]) -> None:
    """Execute each notebook in place. A notebook that fails is left as it was."""
    for path in map(Path, arguments):
        notebook = executed(path)
        nbformat.write(notebook, path)
        print(f"{path}: {sum(bool(cell.get('outputs')) for cell in notebook.cells)} cells with outputs")


if __name__ == "__main__":
    main(sys.argv[1:])
