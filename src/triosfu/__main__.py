"""`python -m triosfu` is `triosfu`."""

from __future__ import annotations

import sys

from triosfu.cli import main

sys.exit(main())
