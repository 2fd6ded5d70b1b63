"""A model that does everything badly: none of it may hurt more than its own turn."""

from scripted_provider.wire import Call, Program, Seen, Turn


def bungles(answer: str, *, tool: str = "read_file") -> Program:
    """Every kind of wrong call once, then prose where an answer is due, then `answer`."""
    script = (
        Turn(calls=(Call(tool, '{"path": "stack/serv'),)),
        Turn(calls=(Call("raed_file", {"path": "stack/server.py"}), Call("", {}), Call(tool, "[1, 2]"))),
        Turn(calls=(Call(tool, {"path": "../../../etc/passwd"}), Call(tool, {"path": "/no/such/file"}))),
        Turn(calls=(Call(tool, {"file": 7}),), text="Now I have it."),
        Turn(calls=tuple(Call(tool, {"path": f"nothing{number}"}) for number in range(60))),
        Turn(text="All done! The stack is about 3x faster now. Shall I go on?"),
        Turn(text=answer),
    )
    return lambda seen: script[min(seen.turns, len(script) - 1)]


def never_valid(seen: Seen) -> Turn:
    """Answers in prose, whatever is asked."""
    return Turn(text="Certainly! Here is my plan: {make it faster}.")


def endless(name: str, arguments: dict[str, object]) -> Program:
    """The same call for ever."""
    return lambda seen: Turn(calls=(Call(name, dict(arguments)),))


def giant(characters: int = 3_000_000) -> Program:
    """One word, until the provider ends it."""
    return lambda seen: Turn(text="very " * (characters // 5), finish="length", piece=65536)
