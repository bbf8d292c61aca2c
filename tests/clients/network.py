"""A network of the test's own: real clients look up public hosts, so they run where there is no way out."""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
ADDRESS = "10.77.0.1"  # of the veth pair that gives the clients an interface besides loopback


def enter_own_network() -> None:
    """Move this process, and all that it starts, into a new network namespace with `lo` and a veth pair."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if libc.unshare(flags):
        error = ctypes.get_errno()
        raise OSError(error, f"a network namespace is needed for the client tests: {os.strerror(error)}")
    for command in (
        "ip link set lo up",
        "ip link add clients type veth peer name server",
        f"ip address add {ADDRESS}/24 dev clients",
        "ip link set clients up",
        "ip link set server up",
    ):
        subprocess.run(command.split(), check=True)
