"""Serves a stack under load and samples where its time goes; runs inside the sandbox.

    python profiling.py OPTIONS

`OPTIONS` is JSON: `model` (its folder), `path` and `body` of the request, `concurrency`, `seconds` of load, `port`, `rate`
of samples per second, `native`. Prints a summary: requests done, then for the sampled threads the functions with most
samples, on top of the stack and anywhere in it. Standard library and py-spy.
"""

import collections
import ctypes
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TEMPORARY = Path(os.environ.get("TMPDIR", "/tmp"))
RAW, LOG = TEMPORARY / "profile.raw", TEMPORARY / "server.log"
READY_SECONDS = 180.0
SHOWN = 25
PR_SET_PTRACER = 0x59616D61


def ask(options: "dict[str, Any]", method: str, path: str, body: "bytes | None") -> "tuple[int, bytes]":
    connection = http.client.HTTPConnection("127.0.0.1", options["port"], timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def allow_tracing() -> None:
    """Where Yama lets ancestors alone trace, the server says that its sibling, the profiler, may."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


def wait_ready(options: "dict[str, Any]", server: "subprocess.Popen[bytes]") -> "str | None":
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            return f"the stack ended before it was ready (exit code {server.returncode})"
        try:
            if ask(options, "GET", "/health", None)[0] == 200:
                return None
        except OSError:
            time.sleep(0.1)
    return "/health did not answer 200 in time"


def load(options: "dict[str, Any]", end: float, done: "list[float]", problems: "list[str]") -> None:
    body = json.dumps(options["body"]).encode()
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            status, answer = ask(options, "POST", options["path"], body)
        except OSError as error:
            problems.append(str(error))
            return
        if status != 200:
            problems.append(f"HTTP {status}: {answer[:300]!r}")
            return
        done.append(time.monotonic() - begun)


def summary(raw: str) -> "list[str]":
    """py-spy's raw format: frames from the bottom to the top, separated by semicolons, and a number of samples."""
    top: collections.Counter[str] = collections.Counter()
    anywhere: collections.Counter[str] = collections.Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            continue
        frames = stack.split(";")
        total += int(count)
        top[frames[-1]] += int(count)
        for frame in set(frames):
            anywhere[frame] += int(count)
    if not total:
        return ["no samples: no Python thread was active"]
    lines = [f"{total} samples of active threads", "", "on top of the stack:"]
    lines += [f"{100 * count / total:5.1f} %  {frame}" for frame, count in top.most_common(SHOWN)]
    lines += ["", "anywhere in the stack:"]
    lines += [f"{100 * count / total:5.1f} %  {frame}" for frame, count in anywhere.most_common(SHOWN)]
    return lines


def main(options: "dict[str, Any]") -> int:
    serve = (
        "python",
        "-m",
        "stack",
        "serve",
        "--model",
        options["model"],
        "--host",
        "127.0.0.1",
        "--port",
        str(options["port"]),
    )
    with LOG.open("wb") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, preexec_fn=allow_tracing)
    problem = wait_ready(options, server)
    if problem is not None:
        print(problem, LOG.read_text(errors="replace")[-3000:], sep="\n")
        return 1
    if options["body"].get("model") is None:
        options["body"]["model"] = json.loads(ask(options, "GET", "/v1/models", None)[1])["data"][0]["id"]
    seconds = options["seconds"]
    spy = subprocess.Popen(
        ("py-spy", "record", "--pid", str(server.pid), "--subprocesses", "--format", "raw", "--output", str(RAW),
         "--duration", str(int(seconds)), "--rate", str(options["rate"]), *(("--native",) if options["native"] else ())),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    done: list[float] = []
    problems: list[str] = []
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=load, args=(options, end, done, problems)) for _ in range(options["concurrency"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = spy.communicate()[0]
    server.terminate()
    if problems:
        print("a request failed:", problems[0])
        return 1
    if spy.returncode != 0 or not RAW.is_file():
        print("py-spy failed:", said[-2000:])
        return 1
    done.sort()
    middle = done[len(done) // 2] if done else 0.0
    print(f"{len(done)} requests in {seconds} s at concurrency {options['concurrency']}, median {1000 * middle:.1f} ms")
    print("\n".join(summary(RAW.read_text(errors="replace"))))
    return 0


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)
