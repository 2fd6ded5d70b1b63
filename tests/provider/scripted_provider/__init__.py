"""A model provider without a model: a server that speaks OpenAI's Responses and Chat Completions, and plays programs.

`wire` is what a program sees and says; `responses` and `chat` are the two protocols; `server` is the HTTP around them;
`programs` are the characters; `recording` plays back what a real provider said.

    with Provider(program) as provider:
        OpenAI(base_url=provider.url, api_key=provider.key)
"""

from scripted_provider.server import Provider
from scripted_provider.wire import Call, Cut, Fault, Program, Raw, Seen, Stall, Status, Turn

__all__ = ["Call", "Cut", "Fault", "Program", "Provider", "Raw", "Seen", "Stall", "Status", "Turn"]
