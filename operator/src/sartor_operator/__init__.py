"""Sartor's operator: a pure core (`observe`, `decide`) in a thin shell (watch, queue, apply)."""
