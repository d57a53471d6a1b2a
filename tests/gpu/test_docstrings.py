"""The examples in the docstrings run on the GPU as they are written."""

import pytest

import interop
from interop import adapters
from tests import pages
from tests.docstrings import EXAMPLES

ON_A_GPU = [name for name in EXAMPLES if not name.program.simulated]


@pytest.mark.parametrize("name", ON_A_GPU, ids=lambda name: name.path)
def test_the_example_runs(name, interop_need, tmp_path, monkeypatch):
    interop_need("gpu", *pages.imported(name.program.text))
    if name.what is interop.Timeline.figure:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapters, "_registered", dict(adapters._registered))
    name.program.run({"interop": interop, "producer": interop.new_stream(), "consumer": interop.new_stream()})
