"""Makes the scripted provider, the playbook's stacks and what machines are stood for with importable."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "provider"), str(TESTS / "redteam"), str(TESTS / "support")]
