"""`sartor_runner` is found also where it is not installed."""

import sys
from pathlib import Path

SOURCE = str(Path(__file__).parents[3] / "runners" / "src")
if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)
