"""The playbook: a backend without a language model. It searches over the skills' recipes and composes what they describe.

Deterministic, free, and the floor that any model must beat.
"""

from sartor_agents.backends.playbook.backend import PlaybookBackend

__all__ = ["PlaybookBackend"]
