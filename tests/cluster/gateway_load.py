"""Open-loop requests: `python gateway_load.py PLAN` (JSON). A line when it begins; a JSON list of outcomes in a file.

Each request has its time and is sent then, whatever became of the others. They are POSTs, which the client never sends again
by itself. A connection is used by one request at a time; those that are free are used again.
"""

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp

WHOLE_SECONDS = 60.0


async def one(session: aiohttp.ClientSession, plan: dict[str, Any], path: str) -> dict[str, Any]:
    """One request: what came, or why not. `cut_after`: the client hangs up so many seconds after the first event."""
    request_id = str(uuid.uuid4())
    headers = {"X-Request-Id": request_id, "Host": plan["host"], **plan.get("headers", {})}
    found: dict[str, Any] = {"id": request_id, "path": path, "sent": time.time()}
    begun = time.monotonic()
    try:
        async with session.post(plan["url"] + path, headers=headers, data=b"{}") as response:
            found |= {
                "status": response.status,
                "arm": response.headers.get("X-Arm"),
                "first": time.monotonic() - begun,
            }
            cut_after = plan.get("cut_after")
            if cut_after is not None:
                await response.content.readany()
                await asyncio.sleep(cut_after)
                response.close()  # the connection too
                found["error"] = "hung up"
            else:
                body = await response.read()
                found["bytes"] = len(body)
                found["done"] = body.endswith(b"data: [DONE]\n\n")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found["seconds"] = time.monotonic() - begun
    return found


async def main(plan: dict[str, Any]) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=WHOLE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        print("begun", flush=True)
        start = asyncio.get_running_loop().time()
        tasks: list[asyncio.Task[dict[str, Any]]] = []
        paths: list[str] = plan["paths"]
        for number in range(plan["count"]):
            wait = start + number / plan["rate"] - asyncio.get_running_loop().time()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(session, plan, paths[number % len(paths)])))
        outcomes = await asyncio.gather(*tasks)
    Path(plan["result"]).write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
