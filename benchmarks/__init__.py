"""Benchmarks: each writes `build/bench/<name>.json`; none is a timed test."""
