"""Searches file contents, inside the sandbox: a model's expression may take for ever, and there its time is bounded.

    python -I -S searching.py OPTIONS

`OPTIONS` is JSON: `pattern`, `folders` (where to look), `glob` (of file names, or null), `ignore_case`, `context` (lines
before and after), `most` (lines to show). Exit code 0 with hits, 1 without, 2 for a pattern that is none.
"""

import fnmatch
import json
import os
import re
import sys

LARGEST = 4 << 20
LONGEST = 300
SKIPPED = {"__pycache__", ".git", "build"}


def main(options: "dict[str, object]") -> int:
    try:
        expression = re.compile(str(options["pattern"]), re.IGNORECASE if options["ignore_case"] else 0)
    except (re.error, RecursionError) as error:
        print(f"not a regular expression: {error}")
        return 2
    left, hits, files = int(str(options["most"])), 0, 0
    for path in paths([str(folder) for folder in options["folders"]], options["glob"]):  # type: ignore[union-attr]
        lines = text(path)
        found = [number for number, line in enumerate(lines) if expression.search(line)]
        if not found:
            continue
        hits, files = hits + len(found), files + 1
        if left > 0:
            left -= show(path, lines, found, int(str(options["context"])), left)
    if not hits:
        print("no hits")
        return 1
    print(f"[{hits} hits in {files} files{'; not all are shown' if left <= 0 else ''}]")
    return 0


def paths(folders: "list[str]", glob: object) -> "list[str]":
    found: list[str] = []
    for top in folders:
        if os.path.isfile(top):
            found.append(top)
        for folder, below, names in os.walk(top):
            below[:] = sorted(name for name in below if name not in SKIPPED)
            found += [
                os.path.join(folder, name) for name in sorted(names) if glob is None or fnmatch.fnmatch(name, str(glob))
            ]
    return found


def text(path: str) -> "list[str]":
    """The lines; none of what is no text, no file, or large."""
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > LARGEST:
            return []
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return []
    return [] if b"\0" in data[:8192] else data.decode(errors="replace").splitlines()


def show(path: str, lines: "list[str]", found: "list[int]", context: int, most: int) -> int:
    """Print hits with their surroundings; how many lines that took."""
    wanted = {near for at in found for near in range(at - context, at + context + 1) if 0 <= near < len(lines)}
    hits, shown, last = set(found), 0, None
    for number in sorted(wanted):
        if shown >= most:
            break
        if last is not None and number > last + 1:
            print("--")
        line = lines[number]
        cut = line if len(line) <= LONGEST else line[:LONGEST] + " […]"
        print(f"{path}{':' if number in hits else '-'}{number + 1}{':' if number in hits else '-'}{cut}")
        shown, last = shown + 1, number
    return shown


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
