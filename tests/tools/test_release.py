"""What a release says of itself is the same everywhere, and the sdist has what its tests need."""

import re
from pathlib import Path

import interop

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(r"^version: (.*)$", citation, re.MULTILINE)
    (date,) = re.findall(r'^date-released: "(.*)"$', citation, re.MULTILINE)
    assert version == interop.__version__
    released = re.findall(r"^## \[(\d.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == (version, date)


def test_the_sdist_has_every_folder_of_the_repository_that_a_test_reads():
    manifest = (ROOT / "MANIFEST.in").read_text()
    assert {"benchmarks", "docs", "interop", "notebooks", "tests"} <= set(
        re.findall(r"^graft (.*)$", manifest, re.MULTILINE)
    )
