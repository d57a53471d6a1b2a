"""docs/architecture.md and its picture tell of the code that is here."""

import re

import pytest

from docs import architecture
from docs.imports import PACKAGE

PAGE = architecture.PICTURE.with_suffix(".md").read_text()
STEPS = re.findall(r"^\| `([\w/]+\.\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE)
FILES = {path for path in re.findall(r"`([\w/]+\.(?:py|c|h))`", PAGE) if not path.startswith(("docs/", "tests/"))}


def test_the_picture_is_what_the_script_draws_now():
    """If not: ``python -m docs.architecture``."""
    assert architecture.PICTURE.read_text() == architecture.svg()


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_file_that_the_page_names_exists(file):
    assert (PACKAGE / file).exists()


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_a_step_of_the_page_is_a_function_of_its_file(file, function):
    defined = (
        rf"^ *def {function}\(" if file.endswith(".py") else rf"^{function}\(|METHOD\({function.removeprefix('do_')}\)"
    )
    assert re.search(defined, (PACKAGE / file).read_text(), re.MULTILINE)


def test_the_page_counts_its_words():
    section = PAGE.partition("## Fourteen words")[2].partition("\n## ")[0]
    assert section.count("\n| ") == 1 + 14
