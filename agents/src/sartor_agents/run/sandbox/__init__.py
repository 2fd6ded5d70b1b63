"""Sandboxes on this machine, for everything that agents write or run.

| module | what |
|---|---|
| `bubblewrap` | the parts of a sandbox that all kinds share: namespaces, the system's programs, Python, the model |
| `candidate` | a stack that is built or served for judge and evaluator |
| `command` | a command of an agent: no network, a workspace in memory, hard limits, a seccomp filter |
| `inside` | the first program in a command's sandbox: limits, time, what is kept |
| `limits`, `cgroups` | what a command may use, and the kernel's groups that hold it to that, where they can be had |
| `seccomp` | the system calls that no command needs |
| `kept` | the way of files out of a sandbox |
| `seatbelt` | the profile for macOS |
"""

from sartor_agents.run.sandbox.bubblewrap import HOME_BYTES, sandbox_program
from sartor_agents.run.sandbox.candidate import confined

__all__ = ["HOME_BYTES", "confined", "sandbox_program"]
