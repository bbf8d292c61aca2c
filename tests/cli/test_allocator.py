"""What large messages leave behind in a process, with and without what `triosfu run` asks of the allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from triosfu.cli.allocator import OVERRIDE

GLIBC = platform.libc_ver()[0] == "glibc"
HOARD = """
import os
from triosfu.cli.allocator import give_large_blocks_back

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

asked = give_large_blocks_back()
before = resident()
messages, small = [], []
for number in range(300):  # as when one connection holds messages and others come
    messages.append(bytes([number % 256]) * 60_000)
    small.append(bytes(2000))
messages.clear()
print(asked, resident() - before)
"""


def grown(**environment: str) -> tuple[bool, int]:
    """Whether the allocator was told, and by how many MiB the process grew."""
    given = {name: value for name, value in os.environ.items() if name != OVERRIDE}
    run = subprocess.run(
        [sys.executable, "-c", HOARD], env=given | environment, capture_output=True, check=True, text=True
    )
    asked, megabytes = run.stdout.split()
    return asked == "True", int(megabytes)


@pytest.mark.skipif(not GLIBC, reason="about glibc's allocator")
def test_freed_messages_go_back_to_the_system() -> None:
    asked, megabytes = grown()
    assert asked
    assert megabytes < 8, "all but the small ones, of 17 MiB"


@pytest.mark.skipif(not GLIBC, reason="about glibc's allocator")
def test_who_sets_glibcs_own_variable_has_decided() -> None:
    asked, megabytes = grown(**{OVERRIDE: str(1 << 20)})
    assert not asked
    assert megabytes > 10, "what would be without it"
