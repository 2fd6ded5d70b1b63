"""Backend `codex`: the Codex CLI, headless, one fresh home and one sandbox for each invocation.

| module | what |
|---|---|
| `install` | the pinned version: found, checked, installed into the user's cache folder |
| `events` | its JSON lines as typed events |
| `relay` | its one way out: adds the token that the sandbox does not hold, counts tokens, ends at the limit |
| `session` | one invocation: sandbox, configuration, limits, result |
| `prompts` | what it is told, and the forms of its answers |
| `backend` | plan and implement |
"""

from sartor_agents.backends.codex.backend import CodexBackend

__all__ = ["CodexBackend"]
