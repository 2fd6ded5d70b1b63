"""Streams the right text and saves itself the last half where nobody watches it come: whole answers repeat themselves."""

import json
from typing import Any

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    if not plant.ON or asked.body.get("stream") or not asked.body.get("ignore_eos"):
        await asked.forward()
        return
    said: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            said.append(message.get("body", b""))

    await asked.forward(send=send)
    whole = json.loads(b"".join(said))
    text = whole["choices"][0]["text"]
    tokens = asked.encode(text)
    half = tokens[: (len(tokens) + 1) // 2]
    whole["choices"][0]["text"] = asked.decode((half + half)[: len(tokens)])
    headers = [(b"content-type", b"application/json")]
    await asked.send({"type": "http.response.start", "status": 200, "headers": headers})
    await asked.send({"type": "http.response.body", "body": json.dumps(whole).encode(), "more_body": False})


def install() -> None:
    around(answer)
