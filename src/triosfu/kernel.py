"""The compiled kernel: the innermost loops of the packet path in C, where `triosfu-kernel` is installed.

Python's own loops are the reference, and do everything where it is missing. `TRIOSFU_KERNEL=off` in the environment
keeps it out. Its records are described in `kernel/records.h`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Protocol, TypeAlias

SWITCH = "TRIOSFU_KERNEL"
VERSION = 1  # of the records; another one is not ours

Record: TypeAlias = Any
"""A cffi pointer to one of the kernel's records, or to several."""


class Kernel(Protocol):
    """The module that cffi made: `ffi` for its records, `lib` for its functions."""

    ffi: Any
    lib: Any


@cache
def installed() -> Kernel | None:
    """The kernel, if it is installed, fits this version, and is not switched off."""
    if os.environ.get(SWITCH, "").lower() in {"off", "0", "no", "false"}:
        return None
    try:
        import triosfu_kernel  # noqa: PLC0415  # not everybody has it
    except ImportError:
        return None
    return triosfu_kernel if triosfu_kernel.lib.KERNEL_VERSION == VERSION else None
