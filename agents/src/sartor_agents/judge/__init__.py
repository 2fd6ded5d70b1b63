"""The accuracy judge: greedy match and log-probabilities under load, relations, robustness. `gate` is the whole of it."""
