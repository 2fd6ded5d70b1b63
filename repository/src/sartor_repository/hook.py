"""git's `pre-receive`: asks `policy.may_push` about a push and says no in a sentence, which `git push` shows.

`python -m sartor_repository.hook`, started by git for every push, after the new objects were checked and before anything
refers to them: they lie in quarantine, and vanish if the answer is no. The service says in the environment who is pushing
(`CALLER`) and with which limits; without that, nothing is taken.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from sartor_repository.facts import FactsError, bytes_below, git, updates
from sartor_repository.policy import Caller, Limits, Role, Sizes, may_push

CALLER = "SARTOR_CALLER"
LIMITS = "SARTOR_LIMITS"


def environment(caller: Caller, limits: Limits) -> dict[str, str]:
    """What the service tells the hook."""
    return {CALLER: json.dumps(asdict(caller)), LIMITS: json.dumps(asdict(limits))}


def answer(lines: Iterable[str], values: Mapping[str, str]) -> str | None:
    """None to take the push, else the sentence that refuses it."""
    if CALLER not in values or LIMITS not in values:
        return "pushes are taken through the git service only"
    told = json.loads(values[CALLER])
    caller = Caller(**told | {"role": Role(told["role"])})
    limits = Limits(**json.loads(values[LIMITS]))
    try:
        moved = updates(list(lines), limits)
        objects = Path(git("rev-parse", "--absolute-git-dir")) / "objects"
    except FactsError as error:
        return f"the push cannot be read: {error}"
    brought = Path(values["GIT_QUARANTINE_PATH"]) if values.get("GIT_QUARANTINE_PATH") else None
    # The quarantine lies below `objects`, so the whole is what the repository would have.
    sizes = Sizes(push=bytes_below(brought) if brought else 0, repository=bytes_below(objects))
    return may_push(caller, moved, sizes, limits)


def main() -> int:
    refusal = answer(sys.stdin, os.environ)
    if refusal is None:
        return 0
    sys.stderr.write(f"sartor: refused: {refusal}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
