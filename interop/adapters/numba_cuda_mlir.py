"""numba-cuda-mlir, the successor of numba-cuda: copies of its classes, and launches of its own."""

from numba_cuda_mlir import cuda
from numba_cuda_mlir.numba_cuda.cudadrv import devicearray, driver

from interop.adapters.base import LEGACY
from interop.adapters.numbas import Numbas


class NumbaCudaMlirAdapter(Numbas):
    """The classes of numba_cuda_mlir.cuda."""

    library = "numba_cuda_mlir"
    title = "numba-cuda-mlir"
    cuda = cuda
    driver = driver
    arrays = devicearray.DeviceNDArray
    instead = (
        "pass `stream.to('numba_cuda_mlir')` at the launch, `kernel[grid, block, stream.to('numba_cuda_mlir')](...)`, "
        "and to copies"
    )

    def null(self) -> int:
        """The legacy stream: launches call the driver, and do not follow the variable of cuda.bindings."""
        return LEGACY


ADAPTER = NumbaCudaMlirAdapter()
