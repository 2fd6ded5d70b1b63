"""Measurement: load generation, windows, own token count, statistics.

`messages` is the border, `evaluation` the whole of one measurement; every other module is one idea of it.
"""
