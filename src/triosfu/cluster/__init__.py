"""Where a room lives: in this process, or in one of several worker processes (docs/workers.md)."""
