"""`ServingSynthesis`: references, runs, delivery, and the status on one screen."""
