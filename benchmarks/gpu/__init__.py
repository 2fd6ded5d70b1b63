"""One command that proves and times the CUDA path on a bare machine with a GPU: `make bench-gpu ARGS="--minutes 25"`.

It needs no network. Models of the real shapes are made on the device. Every step is a process of its own, the most valuable
first; what has finished is kept in the folder of results, so that a second run goes on where the first one ended. See `plan`
for the steps and `report` for the figures.

Throughput and latency come from `served`: stack and baseline over HTTP, judged first, compared by the evaluator in
interleaved windows, as `make bench` does it on a processor. Only what is a figure of a kernel or of a single step is timed
in the process (`roofline`, `decode`). `--device cpu` runs the whole path with a tiny model on any machine; what it gives
is no figure of a device and says so.
"""
