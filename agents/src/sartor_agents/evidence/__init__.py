"""Evidence: one bundle for each accepted candidate, with everything that somebody else needs to check what is claimed of it.

Written by `build`, read and checked by `check`. A bundle is untrusted input: checking it runs nothing that it holds.
"""
