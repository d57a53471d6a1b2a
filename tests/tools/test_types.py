"""mypy and pyright pass over every Python program of the README and of docs/, and see what interop has and has not.

The GPU libraries count as untyped: what their own types say depends on their versions. ``make types`` runs this.
"""

import json
import re
import subprocess
import sys

import pytest

from interop.adapters.table import TABLE
from tests import pages
from tests.pages import ROOT

pytestmark = pytest.mark.timeout(400)

LIBRARIES = ("acme_streams", *TABLE)
OF_ITS_OWN = re.compile(r"^<!-- (?:project: |adapter)[^\n]*\n+```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
RIGHT = """
import ctypes
import interop

with interop.sim.simulate() as gpu:
    array = gpu.array([0.0], "x")
    stream = interop.as_stream(gpu.stream("s"), "cuda:0")
    with interop.ordering.check() as ledger, interop.Timeline() as timeline, interop.testing.gate(stream):
        ledger.writes(array, stream)
    text: str = repr(timeline.table()) + str(interop.doctor().to_dict())
    event: interop.Event = stream.record_event()
    done: bool = event.query()
    address: int = interop.ExternalStream(ctypes.c_void_p(stream.ptr)).cuda_stream
    modules = interop.diagnosis, interop.ledger, interop.matrix, interop.timeline, interop.errors, interop.pytest_plugin
try:
    stream.synchronize(timeout=1.0)
except (interop.RaceError, interop.errors.CudaError, interop.InteropError):
    pass
"""
WRONG = """
import interop

interop.nothing
interop.hand_off
interop.sim.simulated
interop.as_stream(0).handle
interop.as_stream(0).wait_streams()
interop.as_stream(0).wait_event()
interop.as_stream(0, device=1.5)
interop.Event("timing")
interop.Event().sync()
interop.new_stream(0, 1)
interop.borrow([])
"""


def of_pages():
    """The programs of the pages, by names of files. What goes on from each other on a page is one."""
    found = {}
    for page in pages.PAGES:
        name = pages.name(page).replace("/", "_")
        found[name] = "\n".join(program.text for program in pages.on_a_gpu(page))
        found[f"{name}_simulated"] = "\n".join(program.text for program in pages.programs(page) if program.simulated)
        found |= {f"{name}_{number}": text for number, text in enumerate(OF_ITS_OWN.findall(page.read_text()))}
    return {name: text for name, text in found.items() if text}


PROGRAMS = {"right": RIGHT, "wrong": WRONG, **of_pages()}


def mypy(folder):
    modules = ",".join(f"{name}.*" for name in LIBRARIES)
    (folder / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {ROOT}\ncheck_untyped_defs = true\nignore_missing_imports = true\n"
        f"disable_error_code = no-redef\n[mypy-{modules}]\nfollow_imports = skip\n"
    )
    return ["mypy", *(f"{name}.py" for name in PROGRAMS)]


def pyright(folder):
    for library in LIBRARIES:
        package = folder.joinpath("typings", *library.split("."))
        package.mkdir(parents=True)
        stub = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n"
        (package / "__init__.pyi").write_text(stub)
    off = ("reportRedeclaration", "reportMissingImports", "reportMissingModuleSource")
    options = {"extraPaths": [str(ROOT)], "include": ["*.py"], **dict.fromkeys(off, False)}
    (folder / "pyrightconfig.json").write_text(json.dumps(options))
    return ["pyright", "--pythonpath", sys.executable]


CHECKERS = [pytest.param(checker, marks=pytest.mark.needs(checker.__name__)) for checker in (mypy, pyright)]


@pytest.fixture(params=CHECKERS, scope="module")
def errors(request, tmp_path_factory):
    """The errors that a checker finds in all programs: by program, the lines of each with what is said."""
    folder = tmp_path_factory.mktemp("programs")
    for name, program in PROGRAMS.items():
        (folder / f"{name}.py").write_text(program)
    command = [sys.executable, "-m", *request.param(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=380)
    assert done.returncode == 1, (done.stdout, done.stderr)  # WRONG is wrong
    found = {name: {} for name in PROGRAMS}
    for name, line, said in re.findall(r"(\w+)\.py:(\d+):.*?error: (.*)", done.stdout):
        found[name][int(line)] = said
    return found


def test_the_programs_of_the_pages_pass(errors):
    assert {"README", "docs_testing_0"} <= {*errors}
    assert not {name: lines for name, lines in errors.items() if lines and name != "wrong"}


def test_what_interop_does_not_have_is_an_error_in_its_line(errors):
    assert [*errors["wrong"]] == [*range(4, WRONG.count("\n") + 1)]
