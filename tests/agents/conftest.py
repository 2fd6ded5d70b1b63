"""Makes the scripted provider and the playbook's stacks importable."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "provider"), str(TESTS / "redteam")]
