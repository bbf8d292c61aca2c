"""The compiled kernel: the innermost loops of the packet path in C, where `triosfu-kernel` is installed.

Python's own loops are the reference, and do everything where it is missing. `TRIOSFU_KERNEL=off` in the environment
keeps it out. Its records are described in `kernel/records.h`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Protocol, TypeAlias

import structlog

SWITCH = "TRIOSFU_KERNEL"
VERSION = 5  # of the records; with another one the kernel is not ours
SIZES = {  # bytes
    "way": 32,
    "openssl": 32,
    "stream": 16,
    "gcm": 48,
    "sink": 32,
    "queue": 96,
    "log": 32,
    "estimate": 32,
    "feedback_lane": 24,
    "lane": 88,
    "part": 56,
    "burst": 48,
    "stop": 8,
    "packet": 20,
    "intake": 72,
    "form": 35,
}

log = structlog.get_logger(__name__)

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
        import triosfu_kernel  # noqa: PLC0415  not everybody has it
    except ImportError:
        return None
    if fits(triosfu_kernel):
        return triosfu_kernel  # type: ignore[no-any-return]
    log.warning("kernel.does_not_fit", advice="compile it anew: make kernel, or pip install ./kernel")
    return None


def fits(kernel: Kernel) -> bool:
    """Whether the records of `kernel` are those that this version of triosfu fills in."""
    if kernel.lib.KERNEL_VERSION != VERSION:
        return False
    try:
        sizes = {name: kernel.ffi.sizeof(f"struct {name}") for name in SIZES}
    except kernel.ffi.error:  # one of them is missing
        return False
    return sizes == SIZES
