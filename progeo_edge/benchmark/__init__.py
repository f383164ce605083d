"""Benchmarks: how many milliseconds, on this machine, at which percentile, for which stage."""
