"""Judging results against labels: retrieval recall, loop closures, intervals, and two encoders to compare with."""
