"""The real application under a real uvicorn on 127.0.0.1, on a thread, with the toy decoder behind it."""

import asyncio
import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from . import toy

TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_text_side(folder: Path, *, template: str | None = TEMPLATE) -> None:
    """The files that `TextModel.load` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    toy.make_tokenizer().save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


class Running:
    """A server, the objects in it, and a client."""

    def __init__(self, app: Any, decoder: toy.ToyDecoder, url: str) -> None:
        self.app = app
        self.decoder = decoder
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def completion(self, **body: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"prompt": "the quick", "temperature": 0, **body})

    def chat(self, content: str = "hello", **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, **body})

    def events(self, path: str, **body: Any) -> list[Any]:
        """The parsed events of a stream, `[DONE]` checked and left out."""
        with self.http.stream("POST", path, json={"stream": True, "temperature": 0, **body}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def metric(self, name: str) -> float:
        """The sum of a series over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.startswith((name + "{", name + " "))]
        return sum(float(value) for value in values)


@contextmanager
def serving(
    folder: Path, made: toy.Stack, *, rule: Any = toy.scattered, baseline: str | None = None
) -> Iterator[Running]:
    """Serve until the block ends. No request is left in work then, and every thread is gone afterwards; connections that
    a client left open are cut, as the process itself does."""
    if not (folder / "tokenizer.json").exists():
        write_text_side(folder)
    decoder = toy.ToyDecoder(made, rule)
    text = made.text_model.TextModel.load(folder)
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def run() -> None:
        app = made.server.make_app(decoder, text, baseline, asyncio.get_running_loop())
        app.engine.start()
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        sock = made.server.listen("127.0.0.1", 0)
        sock.listen(512)
        state.update(app=app, server=server, port=sock.getsockname()[1], loop=asyncio.get_running_loop())
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        ready.set()
        await task
        await app.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(20)
    running = Running(state["app"], decoder, f"http://127.0.0.1:{state['port']}")
    try:
        yield running
    finally:
        running.http.close()
        until = time.monotonic() + 20
        while state["app"].active and time.monotonic() < until:
            time.sleep(0.01)
        left = left_over(state["server"], state["loop"]) if state["app"].active else ""
        state["server"].should_exit = True
        thread.join(20)
        assert not left, f"requests in work after the last client has gone: {left}"
        assert not thread.is_alive(), f"the server does not end: {left_over(state['server'], state['loop'])}"


def left_over(server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> str:
    """What keeps a server from ending: its open connections, its requests, and where each task and each thread is."""
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    frames = sys._current_frames()
    return "\n".join(
        [
            f"{len(server.server_state.connections)} connections, {len(server.server_state.tasks)} requests",
            *(f"connection {vars(one)}" for one in list(server.server_state.connections)),
            *(f"request {task}" for task in list(server.server_state.tasks)),
            *(f"task {task}: {[str(frame) for frame in task.get_stack()]}" for task in tasks),
            *(
                f"{one.name}\n{''.join(traceback.format_stack(frames[one.ident]))}"
                for one in threading.enumerate()
                if one.ident in frames
            ),
        ]
    )
