"""What a pod should be doing and what its status says: pure, no I/O, the time passed in."""
