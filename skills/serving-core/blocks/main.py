"""`python -m stack build` and `python -m stack serve`."""

import argparse
import errno
import logging
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from . import spec
from .decoder import Decoder
from .decoder_errors import DecoderError
from .model_config import ModelError, check_against_spec, read_config
from .text_model import CheckpointError, TextModel

log = logging.getLogger("stack")


class UserError(Exception):
    """Something that whoever started the command can put right; the message says how."""


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done or stopped by a signal, 1 an error with a message, 2 wrong arguments."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if options.command == "build":
            _build()
        else:
            _serve(options)
    except (UserError, CheckpointError, ModelError, DecoderError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command line speaks by printing
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=f"Serves {spec.SERVED_MODEL_NAME}.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile what has to be compiled, once")
    serve = commands.add_parser("serve", help="serve the model; builds first if that was not done")
    serve.add_argument("--model", type=Path, required=True, help="model folder in Hugging Face layout")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    serve.add_argument("--baseline", type=_url, help="URL of the server that takes what is outside the envelope")
    serve.add_argument("--drain-seconds", type=float, default=30.0, help="time for running requests at the end")
    return parser


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise argparse.ArgumentTypeError(f"{value!r} is not a URL like http://127.0.0.1:8001")
    return value


def _build() -> None:
    if spec.DECODER == "native":
        from .native_build import BuildError, build

        started = time.perf_counter()
        try:
            build()
        except BuildError as error:
            raise UserError(str(error)) from error
        log.info("native decoder built in %.1f s", time.perf_counter() - started)


def _serve(options: argparse.Namespace) -> None:
    from .server import listen, serve

    started = time.perf_counter()
    check_against_spec(read_config(options.model), options.model)
    try:
        sock = listen(options.host, options.port)
    except OSError as error:
        raise UserError(_listen_message(error, options.host, options.port)) from error
    with sock:
        text = TextModel.load(options.model)
        _build()
        decoder = _decoder(options.model)
        log.info(
            "%s (%s; %s) loaded in %.1f s; %d pages of %d tokens, up to %d sequences, speculation: %s",
            spec.SERVED_MODEL_NAME,
            spec.ARCHITECTURE,
            decoder.arithmetic,
            time.perf_counter() - started,
            decoder.pages,
            spec.PAGE_TOKENS,
            spec.MAX_SEQUENCES,
            spec.SPECULATION,
        )
        serve(decoder, text, sock, baseline=options.baseline, drain_seconds=options.drain_seconds)


def _decoder(model: Path) -> Decoder:
    if spec.DECODER == "native":
        from .native_decoder import NativeDecoder

        return NativeDecoder(model, kv_pages=spec.KV_PAGES, threads=spec.THREADS)
    elif spec.DECODER == "cuda":  # noqa: RET505 - one of the branches is all that a composed stack has
        from .cuda_decoder import CudaDecoder

        return CudaDecoder(model, kv_pages=spec.KV_PAGES, device=spec.DEVICE)
    else:
        from .torch_decoder import TorchDecoder

        return TorchDecoder(model, kv_pages=spec.KV_PAGES, threads=spec.THREADS)


def _listen_message(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} is not allowed for this user; choose one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
