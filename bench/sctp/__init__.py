"""Throughput of one reliable data channel; `python -m bench.sctp` runs all of it."""
