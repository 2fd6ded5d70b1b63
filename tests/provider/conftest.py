"""Makes `scripted_provider` importable; other folders' tests do the same with this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
