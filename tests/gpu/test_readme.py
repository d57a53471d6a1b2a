"""The programs in the README and in docs/ run on the GPU as they are written.

Those of the README each run alone, those of a page one after the other.
"""

import pytest

from tests import pages


@pytest.mark.needs("cupy", "torch")
@pytest.mark.parametrize("number", range(len(pages.on_a_gpu(pages.README))))
def test_each_program_of_the_readme_runs_alone(number):
    names = {}
    pages.on_a_gpu(pages.README)[number].run(names)
    import cupy

    cupy.cuda.Device().synchronize()
    expected = (2.0, 3.0)[number]
    assert float(names["x"].min()) == float(names["x"].max()) == expected
    if "total" in names:
        assert float(names["total"]) == 1 << 20


@pytest.mark.parametrize("path", [*filter(pages.on_a_gpu, pages.PAGES_WITH_PROGRAMS)], ids=pages.name)
def test_the_programs_of_a_page(path, interop_need):
    interop_need("gpu", *pages.libraries(path))
    names = {}
    for program in pages.on_a_gpu(path):
        program.run(names)
