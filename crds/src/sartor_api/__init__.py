"""Sartor's API: the one definition of its resources, and the pure decision core of a search."""
