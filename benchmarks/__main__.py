"""`make bench`: every bench in turn, each in a process of its own; `make bench ARGS=decode_step` runs only that one."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    benches = [path.stem for path in sorted(HERE.glob("*.py")) if not path.stem.startswith("__")]
    unknown = [name for name in names if name not in benches]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are: {', '.join(benches)}", file=sys.stderr)
        return 2
    failed = [
        name
        for name in names or benches
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    ]
    if failed:
        print(f"benches that did not finish: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
