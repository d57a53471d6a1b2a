"""Numba, by numba-cuda: launches and copies take only Numba's own type of stream; no current stream."""

from numba import cuda
from numba.cuda.cudadrv import devicearray, driver

from interop.adapters.numbas import Numbas


class NumbaAdapter(Numbas):
    """The classes of numba.cuda."""

    library = "numba"
    title = "Numba"
    cuda = cuda
    driver = driver
    arrays = devicearray.DeviceNDArray
    instead = "pass `stream.to('numba')` at the launch, `kernel[grid, block, stream.to('numba')](...)`, and to copies"


ADAPTER = NumbaAdapter()
