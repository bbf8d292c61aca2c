"""How the C library's allocator is to treat what is large."""

from __future__ import annotations

import ctypes
import os
from typing import Final

M_MMAP_THRESHOLD: Final = -3  # malloc.h
OVERRIDE: Final = "MALLOC_MMAP_THRESHOLD_"
LARGE: Final = 32 * 1024  # bytes


def give_large_blocks_back() -> bool:
    """Have memory of `LARGE` bytes and more go back to the system when it is freed; False where that cannot be said.

    With glibc's own threshold, which grows to 32 MiB, messages of 60 kB lie between small things that stay: after a
    burst towards somebody who does not read, all of it is free and none of it is returned (docs/black-hole.md). A
    mapping of its own costs some microseconds, and reading or writing such a message takes a hundred times as long.
    Who sets the environment variable of glibc for it has decided.
    """
    if OVERRIDE in os.environ:
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE))
    except (OSError, AttributeError):  # not glibc
        return False
