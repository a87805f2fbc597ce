"""Memory of the process: what a step frees is kept for the next, all else handed back; and its part of a GPU's."""

import ctypes
import gc

import torch

# of mallopt(3), glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1
# what trials share of a GPU's memory; the rest is the driver's own
ALLOWANCE = 0.95
# of errors that are no `torch.OutOfMemoryError`: of older paths, of a context, of libraries that allocate by themselves
LACKING = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def give_back() -> None:
    """Hand memory that is free back to the kernel, after work that does not repeat soon: the set-up, an evaluation."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Let the C library reuse large blocks instead of handing them back to the kernel; no effect where it cannot.

    A step allocates gradients as large as the model. By default glibc maps each anew, and the kernel clears its pages
    first: a third of the time of a step with few rows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def limit_gpu_memory(share: float) -> None:
    """Let torch have no more than a share of this process's GPU from now on, so that its neighbours there have theirs.

    Contexts are not counted. One trial at its limit leaves room for them, where the others stay at the peak by which
    shares are measured: that is a margin below theirs.

    Args:
        share: of the GPU, above 0; from 1 on there is no limit, and an earlier one is lifted.
    """
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share * ALLOWANCE if share < 1 else 1.0)


def give_back_gpu_memory() -> None:
    """Hand what torch holds of a GPU and nothing uses to the other processes there."""
    gc.collect()
    torch.cuda.empty_cache()


def gpu_context_lost() -> bool:
    """Whether this process's GPU takes nothing any more, as after an illegal access: only another process helps."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        return not out_of_gpu_memory(error)
    return False


def out_of_gpu_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU has too little memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LACKING)
