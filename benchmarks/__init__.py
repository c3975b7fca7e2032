"""Timings of jaxgmm beside its peers: ``python -m benchmarks``."""
