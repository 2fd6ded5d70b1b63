"""What was said between agents and models: typed events, written as they happen, without secrets and of bounded size."""
