"""One `check_*` per parser: total, and the exact inverse of its writer."""
