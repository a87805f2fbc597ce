"""Memory of the process: what a step frees is kept for the next one, and all else handed back."""

import ctypes

# of mallopt(3), glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


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
