"""A model that thinks for long and never comes to an end: only a budget stops it."""

from scripted_provider.wire import Call, Program, Turn


def spender(tool: str, tokens: int = 50_000) -> Program:
    """Calls `tool` with ever new arguments, and reports `tokens` of output each time."""
    return lambda seen: Turn(
        calls=(Call(tool, {"path": f"stack/attempt_{seen.turns}.py"}),), output_tokens=tokens, reasoning="hmm " * 20
    )
