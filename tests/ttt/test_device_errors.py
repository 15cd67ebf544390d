"""Which errors cost the process its device, in the words of PyTorch and of the libraries below."""

import pytest
import torch

from ttt.device_errors import is_device_lost, is_out_of_memory, lost_device_named, raise_if_lost
from ttt.errors import UserError

ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call."
LOST = (
    torch.AcceleratorError(f"CUDA error: device-side assert triggered{ADVICE}"),
    torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{ADVICE}"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("HIP error: unspecified launch failure"),
    torch.AcceleratorError("in words that nobody has seen yet"),
    RuntimeError(f"CUDA error: unknown error{ADVICE}"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_MAPPING_ERROR"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `f`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("NCCL error in: NCCLUtils.cpp:77, unhandled cuda error, NCCL version 2.27.5"),
    torch.distributed.DistBackendError("NCCL error in: x.cpp:3, remote process exited"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: not yet initialized"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
)
MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    MemoryError("Unable to allocate 3.00 GiB for an array"),
)
NEITHER = (
    torch.AcceleratorError("CUDA error: no kernel image is available for execution"),
    RuntimeError("CUDA error: invalid device ordinal"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    RuntimeError("Expected all tensors to be on the same device, cpu and cuda:0"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("CUDA error: a file of that name"),
    UserError("cuDNN error.wav: cannot be read"),
    ZeroDivisionError("a bug"),
)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}-{error}"[:60]


@pytest.mark.parametrize("error", LOST, ids=_words)
def test_a_lost_device(error):
    assert is_device_lost(error)
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        raise_if_lost(error)


@pytest.mark.parametrize("error", MEMORY, ids=_words)
def test_memory_that_does_not_suffice_is_no_lost_device(error):
    assert is_out_of_memory(error)
    assert not is_device_lost(error)
    raise_if_lost(error)


@pytest.mark.parametrize("error", NEITHER, ids=_words)
def test_what_is_wrong_with_the_work_alone(error):
    assert not is_device_lost(error)
    assert not is_out_of_memory(error)
    raise_if_lost(error)


@pytest.mark.parametrize("error", LOST, ids=_words)
def test_a_lost_device_behind_another_error(error):
    def load() -> None:
        try:
            raise error
        except RuntimeError as first:
            raise UserError("the model cannot be loaded") from first

    def clean_up() -> None:
        try:
            raise error
        finally:
            raise KeyError("a bug")

    for work in (load, clean_up):
        with pytest.raises((UserError, KeyError)) as caught:
            work()
        assert is_device_lost(caught.value)


@pytest.mark.parametrize("error", (*LOST, *MEMORY, *NEITHER[:8]), ids=_words)
def test_a_traceback_says_the_same(error):
    lines = ("Traceback:", f'  raise RuntimeError("CUDA error: {error}")')
    name = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    printed = "\n".join([*lines, f"{name}: {error}", "", "During the above:", "KeyError: 'a bug'"])
    named = lost_device_named(printed)
    assert named == (str(error).partition("\n")[0] if is_device_lost(error) else None)
