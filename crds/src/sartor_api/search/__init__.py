"""The search core: typed records of a run and the pure function that decides what happens next."""
