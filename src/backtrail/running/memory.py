"""How this process asks the system for memory."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's malloc.h; see mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that is freed, and say whether it could; no number depends on it.

    On a CPU torch asks the C library anew for every activation. By default glibc takes large blocks from the kernel and gives each back
    when it is freed, so a net spends a tenth of its time, and Inception over a third, on first touches of fresh pages.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, never))
