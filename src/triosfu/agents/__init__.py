"""Agent workers: who they are, which job each of them gets, and what becomes of it (docs/agents.md)."""
