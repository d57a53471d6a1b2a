"""The programs in the README run on the GPU as they are written, one after the other."""

import pytest

from tests.test_readme import PROGRAMS, SIMULATED


@pytest.mark.needs("cupy", "numba", "torch")
def test_the_programs():
    names = {}
    for program in PROGRAMS:
        if program not in SIMULATED:
            exec(compile(program, "README.md", "exec"), names)
    import cupy

    cupy.cuda.Device().synchronize()
    assert float(names["x"].min()) == float(names["x"].max()) == 2.0
    assert float(names["y"].min()) == float(names["y"].max()) == 6.0
