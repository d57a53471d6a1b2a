"""The status codes that the simulator answers with. The numbers are the same in ``cudaError_t`` and ``CUresult``."""

from typing import Final

INVALID_VALUE: Final = 1
INVALID_DEVICE: Final = 101
INVALID_CONTEXT: Final = 201
INVALID_HANDLE: Final = 400
ILLEGAL_STATE: Final = 401
NOT_READY: Final = 600
CAPTURE_UNSUPPORTED: Final = 900
CAPTURE_INVALIDATED: Final = 901
CAPTURE_MERGE: Final = 902
CAPTURE_UNMATCHED: Final = 903
CAPTURE_UNJOINED: Final = 904
CAPTURE_ISOLATION: Final = 905
CAPTURE_IMPLICIT: Final = 906
CAPTURED_EVENT: Final = 907
CAPTURE_WRONG_THREAD: Final = 908


class Refused(Exception):  # noqa: N818  (an answer of CUDA's, on its way to becoming a status code)
    """CUDA answers a call with *code*."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
