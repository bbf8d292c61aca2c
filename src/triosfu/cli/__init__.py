"""The command line: `triosfu run`, `triosfu token create`, `triosfu keys generate`."""

from __future__ import annotations

from triosfu.cli.main import main

__all__ = ["main"]
