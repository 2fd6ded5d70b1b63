"""`SynthesisRun`: one search, carried out by Jobs and led by the very `decide` that leads `sartor run`."""
