"""The accuracy judge: exact greedy match under load, metamorphic relations, robustness. `gate` is the whole of it."""
