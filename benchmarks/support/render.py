"""The page of all figures, from `benchmarks/results/*.json`: `python -m benchmarks.support.render [--check]`."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.support.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "reference" / "figures.md"
HEADER = """# Figures

Rendered from `benchmarks/results/` by `make generate`; do not edit. Each figure has its 95 % interval and the number of
replicates; *met* says whether the whole interval is on the right side of the target. Notes say which settings ran.
"""


def page(files: list[Path]) -> str:
    """The whole page, files in the order of their names."""
    return "\n".join([HEADER, *(section(path) for path in files)])


def section(path: Path) -> str:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    machine = result["machine"]
    bf16 = "native bf16" if machine["native_bf16"] else "no native bf16"
    lines = [
        f"## {path.stem.replace('_', ' ')}",
        "",
        f"`{result['command']}`, {result['seconds']:.0f} s, commit {result['commit'][:12]}, "
        f"{machine['processor']}, {machine['cores']} cores, {bf16}.",
        "",
        "| figure | value | interval | n | target | met |",
        "|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for row in result["rows"]:
        target = "" if row["target"] is None else f"{'≥' if row['better'] == 'higher' else '≤'} {row['target']:.3g}"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        lines.append(
            f"| `{row['bar']}` | {row['value']:.3g} {row['unit']} | {row['low']:.3g} – {row['high']:.3g} | {row['n']} "
            f"| {target} | {met} |"
        )
        if row["note"]:
            notes.append(f"- `{row['bar']}`: {row['note']}")
    return "\n".join([*lines, "", *notes, ""])


def main(arguments: list[str]) -> int:
    text = page(sorted(RESULTS.glob("*.json")))
    if arguments == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not what benchmarks/results gives; run: make generate", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
