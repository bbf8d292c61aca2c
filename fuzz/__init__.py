"""Fuzzing: one check per parser, shared with the tests."""
