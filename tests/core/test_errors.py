"""Each error derives from InteropError and from a standard exception, and can be pickled."""

import copy
import pickle

import pytest

from interop import errors
from interop._cuda import codes
from interop.errors import CudaError, InteropError, LibraryNotFoundError

PARENTS = {
    errors.AdapterError: [RuntimeError],
    errors.CaptureError: [RuntimeError],
    errors.CudaError: [RuntimeError],
    errors.DeadlockError: [RuntimeError],
    errors.DeviceMismatchError: [ValueError],
    errors.InvalidArrayError: [TypeError, ValueError],
    errors.InvalidEventError: [TypeError, ValueError],
    errors.InvalidStreamError: [TypeError, ValueError],
    errors.InvalidTokenError: [ValueError],
    errors.LibraryNotFoundError: [ImportError],
    errors.NoDeviceError: [RuntimeError],
    errors.InvalidDeviceError: [TypeError, ValueError],
    errors.NestingError: [RuntimeError],
    errors.NotSupportedError: [NotImplementedError],
    errors.ProcessDiedError: [ConnectionError],
    errors.ProducerUnknownError: [ValueError],
    errors.RaceError: [RuntimeError],
    errors.StaleStreamError: [RuntimeError],
    errors.UnrecordedEventError: [RuntimeError],
}
SIMPLE = [cls for cls in PARENTS if cls is not CudaError]


class SpecialError(CudaError):
    """A subclass, as a user may write one."""


@pytest.fixture(params=[CudaError, SpecialError])
def cuda_error(request):
    return request.param(400, "cudaErrorInvalidResourceHandle", "cudaEventRecord", "invalid resource handle")


def test_this_file_lists_all_errors():
    found = {value for value in vars(errors).values() if isinstance(value, type)}
    assert found == {InteropError, *PARENTS}


@pytest.mark.parametrize(("cls", "parents"), PARENTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_an_error_has_interop_error_and_standard_bases(cls, parents):
    assert cls.__bases__ == (InteropError, *parents)
    assert cls.__doc__


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
class TestACopy:
    @pytest.mark.parametrize("cls", SIMPLE, ids=lambda cls: cls.__name__)
    def test_keeps_the_message(self, cls, again):
        error = again(cls("what was given"))
        assert type(error) is cls
        assert str(error) == "what was given"

    def test_keeps_the_name_of_the_library(self, again):
        error = again(LibraryNotFoundError("jax is not installed", name="jax"))
        assert (str(error), error.name) == ("jax is not installed", "jax")

    def test_keeps_the_parts_of_a_cuda_error(self, cuda_error, again):
        error = again(cuda_error)
        assert type(error) is type(cuda_error)
        assert str(error) == str(cuda_error)
        assert (error.code, error.name, error.call) == (400, "cudaErrorInvalidResourceHandle", "cudaEventRecord")


def test_a_cuda_error_says_call_name_code_and_text(cuda_error):
    assert str(cuda_error) == (
        "cudaEventRecord failed with cudaErrorInvalidResourceHandle (400): invalid resource handle"
    )


def test_a_cuda_error_may_have_no_text():
    assert str(CudaError(1, "cudaErrorInvalidValue", "cudaFree")) == "cudaFree failed with cudaErrorInvalidValue (1)"


@pytest.mark.parametrize("code", sorted(codes.NO_DEVICE_CODES))
def test_codes_without_a_device_raise_no_device_error(code):
    from cuda.bindings import runtime

    with pytest.raises(errors.NoDeviceError, match=rf"{runtime.cudaError_t(code).name} \({code}\): \w+.*interop\.sim"):
        codes.checked((runtime.cudaError_t(code),), "cudaFree", runtime)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((0, 0), r"\(35\): there is no NVIDIA driver here\. "),
        ((0, 12080), r"\(35\): CUDA driver version is insufficient for CUDA runtime version\. "),
        ((3, None), r"\(35\): CUDA driver version is insufficient for CUDA runtime version\. "),
    ],
)
def test_the_error_tells_an_old_driver_from_a_missing_one(answer, text, monkeypatch):
    from cuda.bindings import runtime

    monkeypatch.setattr(runtime, "cudaDriverGetVersion", lambda: answer)
    code = runtime.cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(errors.NoDeviceError, match=rf"cudaErrorInsufficientDriver {text}"):
        codes.checked((code,), "cudaFree", runtime)


@pytest.mark.parametrize(
    ("kind", "name"), [("runtime", "cudaErrorIllegalAddress"), ("driver", "CUDA_ERROR_ILLEGAL_ADDRESS")]
)
def test_all_other_codes_raise_cuda_error(kind, name):
    from cuda.bindings import driver, runtime

    code = {"runtime": runtime.cudaError_t, "driver": driver.CUresult}[kind](700)
    with pytest.raises(CudaError, match=rf"^call failed with {name} \(700\): an illegal memory access") as caught:
        codes.checked((code, None), "call", runtime)
    assert (caught.value.code, caught.value.name, caught.value.call) == (700, name, "call")
