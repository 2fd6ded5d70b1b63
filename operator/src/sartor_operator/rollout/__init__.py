"""`ServingRollout`: traffic from one arm to the other, step by step, and back at every instant."""
