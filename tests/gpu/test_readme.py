"""The programs in the README and in docs/ run on the GPU as they are written: those of a page one after the other."""

import pytest

from tests import pages


@pytest.mark.needs("cupy", "numba", "torch", "jax")
def test_the_programs_run_one_after_the_other():
    names = {}
    for program in pages.on_a_gpu(pages.README):
        program.run(names)
    import cupy
    import numpy as np

    cupy.cuda.Device().synchronize()
    assert float(names["x"].min()) == float(names["x"].max()) == 2.0
    assert float(names["y"].min()) == float(names["y"].max()) == 6.0
    assert names["in_jax"].dtype == "bfloat16"
    assert names["in_jax"].unsafe_buffer_pointer() == names["weights"].data_ptr()
    assert (np.asarray(names["in_jax"]).astype("f4") == 1).all()
    (span,) = names["timeline"].spans
    assert 4.5 <= span.end - span.start <= 50


@pytest.mark.parametrize("path", [*filter(pages.on_a_gpu, pages.PAGES_WITH_PROGRAMS)], ids=pages.name)
def test_the_programs_of_a_page(path, interop_need):
    interop_need(*pages.libraries(path))
    names = {}
    for program in pages.on_a_gpu(path):
        program.run(names)
