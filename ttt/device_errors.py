"""What an error of a GPU means for the process that met it.

    out of memory     the work did not fit; the process goes on with less at a time
    a lost device     the process can use its GPU no more (an illegal access, a failed kernel, a
                      card that fell off the bus), and everything it tries later fails as well:
                      only a new process helps
    anything else     the work itself is wrong, and would be on any machine

CUDA reports an error where it is next asked, so that a lost device may appear in the clothes of any
library. It is known by its type, or by what PyTorch writes for the libraries that it calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch


def is_device_lost(error: BaseException) -> bool:
    """Whether the error, or one that led to it, says that this process has lost its device."""
    return any(
        isinstance(each, RuntimeError) and _says_lost(type(each).__name__, str(each))
        for each in _with_causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory did not suffice, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None


def raise_if_lost(error: BaseException) -> None:
    """Raise the error again where it is no matter of the work in hand, but of the whole process."""
    if is_device_lost(error):
        raise error


def lost_device_named(traceback_text: str) -> str | None:
    """The words in which a printed traceback says that a device was lost; None when it does not."""
    for kind, message in _ERROR_LINE.findall(traceback_text):
        if _says_lost(kind.rpartition(".")[2], message):
            return message
    return None


_ERROR_LINE = re.compile(r"^([A-Za-z_][\w.]*): (.*)$", re.MULTILINE)
"""The last line of each traceback: the error's type and the first line of its words."""

_MEMORY = re.compile(
    r"out of memory|(?:ALLOC|ALLOCATION)_FAILED|not enough memory|can(?:not|'t) allocate memory",
    re.IGNORECASE,
)

_THE_SAME_ANYWHERE = re.compile(
    r"no kernel image|unsupported toolchain|invalid device ordinal|driver version is insufficient"
    r"|_(?:NOT_SUPPORTED|INVALID_VALUE|INVALID_SIZE|INVALID_TYPE|INVALID_PLAN|BAD_PARAM"
    r"|ARCH_MISMATCH|LICENSE_ERROR)|invalid usage",
    re.IGNORECASE,
)
"""What a new process would meet again: the wrong build, or a call that is refused as it is."""

_LOST = re.compile(
    r"\b(?:CUDA|HIP|XPU)(?: driver)? error\b|\bTriton Error \[(?:CUDA|HIP)\]"
    r"|\b(?:cuBLAS|cuBLASLt|cuDNN|cuFFT|cuSOLVER|cuSPARSE|cuRAND|hipBLAS|rocBLAS|hipFFT|MIOpen)"
    r" (?:error|failure)\b|\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CURAND|HIPBLAS|MIOPEN)_STATUS_"
    r"|\bCUFFT_(?:INTERNAL|EXEC|SETUP)|\b(?:NCCL|RCCL) error\b|\bncclUnhandledCudaError\b"
    r"|illegal memory access|illegal instruction was encountered|device-side assert"
    r"|unspecified launch failure|launch timed out|misaligned address|uncorrectable ECC"
    r"|uncorrectable NVLink|fallen off the bus|GPU is lost|context is destroyed"
    r"|No (?:CUDA|HIP) GPUs are available|no CUDA-capable device|CUDA unknown error"
    r"|busy or unavailable|Unexpected error from cudaGetDeviceCount",
    re.IGNORECASE,
)


def _says_lost(kind: str, message: str) -> bool:
    if kind == "OutOfMemoryError" or _MEMORY.search(message) or _THE_SAME_ANYWHERE.search(message):
        return False
    return kind == "AcceleratorError" or _LOST.search(message) is not None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (
            None if following.__suppress_context__ else following.__context__
        )
