"""Benchmarks: each module makes the figures of one area and writes `benchmarks/results/NAME.json`."""
