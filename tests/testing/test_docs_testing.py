"""docs/testing.md: its programs run, and its reports are what a new project with our wheel prints.

``python tests/testing/test_docs_testing.py`` writes the reports anew.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import interop
from interop import sim
from interop.errors import CaptureError, DeadlockError
from interop.testing import assert_ordered

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"
ACME = ROOT / "tests" / "plugin" / "test_acme_streams.py"
BLOCK = re.compile(r"(?:<!-- (?P<what>.*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def blocks():
    return [found.groupdict() for found in BLOCK.finditer(PAGE.read_text())]


def project():
    """The name and the text of the project's one file."""
    (found,) = [block for block in blocks() if (block["what"] or "").startswith("project: ")]
    return found["what"].removeprefix("project: "), found["text"]


def reports():
    """What is shown for each set of options."""
    shown = [block for block in blocks() if (block["what"] or "").startswith("report: ")]
    return {block["what"].removeprefix("report: "): block["text"] for block in shown}


def install(folder):
    """A wheel of this checkout, and nothing else, in a folder of its own."""
    source = folder / "source"
    source.mkdir()
    for name in ("interop", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copier(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", folder / "site", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def report(folder, site, options):
    """What pytest prints in a new project, on a machine without a GPU and CuPy, without what differs by run."""
    name, text = project()
    (folder / name).write_text(text)
    hidden = folder.parent / "hidden"  # so that CuPy is not found, though it may be installed
    hidden.mkdir(exist_ok=True)
    (hidden / "sitecustomize.py").write_text(HIDE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options.split()],
        cwd=folder,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": f"{site}{os.pathsep}{hidden}",
            "PYTHONNODEBUGRANGES": "1",  # where in a line an error is, tracebacks say from Python 3.13 on
            "COLUMNS": "100",
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [
        line
        for line in done.stdout.splitlines()
        if not re.match(r"platform |rootdir: |plugins: |=+ test session", line)
    ]
    text = re.sub(r" in [\d.]+s", "", "\n".join(lines))
    return f"$ pytest {options}\n{text}\n"


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*"cupy numba numba_cuda_mlir rmm torch tvm_ffi warp jax acme_streams".split()}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("options", reports())
def test_the_reports_are_what_is_printed(options, site, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    assert report(folder, site, options) == reports()[options]


def test_the_adapters_suite_is_the_plugins():
    (shown,) = [block["text"] for block in blocks() if block["what"] == "adapter"]
    assert shown == ACME.read_text()
    assert len(shown.splitlines()) < 25


def test_the_programs():
    names = {}
    with sim.simulate() as gpu:
        for block in blocks():
            if block["language"] == "python" and not block["what"]:
                exec(compile(block["text"], str(PAGE), "exec"), names)
        x, y = gpu.array([1.0]), gpu.array([0.0])

        def copy(old, new):
            new[:] = old

        def read(source, target, stream):
            gpu.launch(stream, copy, reads=[source], writes=[target])

        assert names["reader_sees_the_writers_work"](x, read, y)


def test_where_the_page_asks_a_gate_a_capture_would_not_do():
    (program,) = [block["text"] for block in blocks() if 'by="gate"' in block["text"] and block["language"] == "python"]
    with sim.simulate():
        names = {name: getattr(interop.testing, name) for name in interop.testing.__all__}
        names |= {"producer": interop.new_stream(), "consumer": interop.new_stream()}
        exec(program, names)
        with pytest.raises(CaptureError):
            exec(program.replace(', by="gate"', ""), names)


@pytest.mark.parametrize(
    ("call", "capture", "gate"),
    [
        ("producer.query()", CaptureError, None),
        ("consumer.query()", CaptureError, None),
        ("consumer.wait_event(before)", CaptureError, None),
        ("consumer.synchronize()", CaptureError, DeadlockError),
        ("gpu.runtime.cudaDeviceSynchronize()", CaptureError, DeadlockError),
        ("other.query()", None, None),
        ("other.synchronize()", None, None),
    ],
)
@pytest.mark.parametrize("by", ["capture", "gate"])
def test_the_table_of_what_may_be_in_a_block(call, capture, gate, by):
    error = {"capture": capture, "gate": gate}[by]
    with sim.simulate() as gpu:
        producer, consumer, other = (interop.new_stream() for _ in range(3))
        names = {"producer": producer, "consumer": consumer, "other": other, "gpu": gpu, "before": other.record_event()}
        with pytest.raises(error) if error else contextlib.nullcontext(), assert_ordered(producer, consumer, by=by):
            consumer.wait_stream(producer)
            eval(call, names)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site, here = install(folder), folder / "project"
        here.mkdir()

        def renewed(found):
            what = found["what"] or ""
            text = found["text"]
            if what.startswith("report: "):
                text = report(here, site, what.removeprefix("report: "))
            if what == "adapter":
                text = ACME.read_text()
            marker = f"<!-- {what} -->\n" if what else ""
            return f"{marker}```{found['language']}\n{text}```"

        PAGE.write_text(BLOCK.sub(renewed, PAGE.read_text()))


if __name__ == "__main__":
    main()
