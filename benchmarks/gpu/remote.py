"""The judge's reference in a process of its own.

A process that has used a device stays on it as long as it lives, and the evaluator takes whoever computes there beside the
two servers for a disturbance. So the bench itself never touches the device: its reference comes for the judging and goes
before the next window.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sartor_agents.judge.reference_check import Checker, ReferenceCheck

_END_SECONDS = 30.0


class RemoteReference:
    """`Checker` over `make(model_dir)` elsewhere. Raises `RuntimeError` for what it raises, or when it is gone."""

    def __init__(self, make: Callable[[Path], Checker], model_dir: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, model_dir), daemon=True)
        self._process.start()
        other.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        return self._ask("check", prompt_ids, output_ids)

    def rounded(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> ReferenceCheck:
        return self._ask("rounded", prompt_ids, output_ids, layers=layers, logits=logits)

    def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        return self._ask("products", prompt_ids, output_ids)

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        return self._ask("generate", prompt_ids, tokens)

    def close(self) -> None:
        """End the process and give its memory back; idempotent."""
        self._pipe.close()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        try:
            self._pipe.send((name, arguments, named))
            failure, value = self._pipe.recv()
        except (OSError, EOFError) as error:
            raise RuntimeError(f"the reference's process is gone (exit code {self._process.exitcode})") from error
        if failure is not None:
            raise RuntimeError(failure)
        return value


def _serve(pipe: Connection, make: Callable[[Path], Checker], model_dir: Path) -> None:
    reference: Checker | None = None
    while True:
        try:
            name, arguments, named = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if reference is None:
                reference = make(model_dir)
            pipe.send((None, getattr(reference, name)(*arguments, **named)))
        except Exception as error:  # noqa: BLE001 - said on the other side
            pipe.send((f"{type(error).__name__}: {error}", None))


class Opened:
    """`open_reference` of a ground: opens references elsewhere, and ends all of them on `release`."""

    def __init__(self, make: Callable[[Path], Checker]) -> None:
        self._make = make
        self._open: list[RemoteReference] = []

    def __call__(self, model_dir: Path) -> Checker:
        self._open.append(RemoteReference(self._make, model_dir))
        return self._open[-1]

    def release(self) -> None:
        for reference in self._open:
            reference.close()
        self._open.clear()
