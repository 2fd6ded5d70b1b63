"""Programs that tools run inside the sandbox. Each file is shown there alone: standard library only."""
