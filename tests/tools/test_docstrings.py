"""What the docstrings of the public names show: here run the examples that need no GPU."""

import inspect
import re

import pytest

import interop
from interop import sim
from tests.docstrings import EXAMPLES, NAMES, must_have_an_example

WITHOUT_A_GPU = [name for name in EXAMPLES if not name.program.for_a_gpu]
A_SCREEN = 40
A_TITLE = 3
"""The lines that help() puts before a docstring; with a long signature, Python 3.13 and later put more."""


def path(name):
    return name.path


@pytest.mark.parametrize("name", [name for name in NAMES if must_have_an_example(name)], ids=path)
def test_after_the_sentence_that_says_what_it_is_comes_an_example(name):
    sentence, example, *_ = [*name.text.split("\n\n"), "", ""]
    assert sentence.endswith(".")
    assert example == "Example::"
    compile(name.example, name.path, "exec")


def test_a_docstring_has_one_example():
    assert [name.path for name in NAMES if name.text.count("Example::") > bool(name.example)] == []


def run(program):
    if program.simulated:
        program.run({"interop": interop})
        return
    with sim.simulate():
        names = {"interop": interop, "producer": interop.new_stream(), "consumer": interop.new_stream()}
        program.run(names)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", WITHOUT_A_GPU, ids=path)
def test_the_example_runs(name, tmp_path, monkeypatch):
    if name.what is interop.Timeline.figure:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    run(name.program)


@pytest.mark.parametrize("name", [name for name in WITHOUT_A_GPU if "without this line" in name.example], ids=path)
def test_what_an_example_says_of_a_line_is_so(name):
    program = name.program
    line, error = re.search(r"^.* # without this line(?:: (\w+))?.*\n", program.text, re.MULTILINE).group(0, 1)
    with pytest.raises(getattr(interop, error or "", AssertionError)):
        run(program._replace(text=program.text.replace(line, "")))


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isroutine(name.what)], ids=path)
def test_help_fits_a_screen_before_the_details(name):
    text, *_ = inspect.getdoc(name.what).split("Note:\n")
    assert A_TITLE + len(text.splitlines()) <= A_SCREEN


def test_the_details_of_a_hand_over_come_last():
    headings = re.findall(r"^(\w+):", inspect.getdoc(interop.handoff), re.MULTILINE)
    assert headings == ["Example", "Args", "Raises", "Note"]
