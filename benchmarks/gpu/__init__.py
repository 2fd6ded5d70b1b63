"""One command that proves and times the CUDA path on a bare machine with a GPU: `make bench-gpu ARGS="--minutes 25"`.

It needs PyTorch, Triton and `transformers`, no network and no other package of the project's lock. Models of the
real shapes are made on the device. Every step is a process of its own, the most valuable first; what has finished
is kept in the folder of results, so that a second run goes on where the first one ended. See `plan` for the steps
and `report` for the figures.

Engines are driven in the process, without HTTP, each for itself: own and baseline run one after the other on the
same device. The rows say so. What chooses and promotes stacks is the paired measurement of
`sartor_agents.measurement`, not this.
"""
