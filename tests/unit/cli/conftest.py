"""The command line's tests use the run's fakes."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "run"), str(Path(__file__).parents[2] / "support")]
