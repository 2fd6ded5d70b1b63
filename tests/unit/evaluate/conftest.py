import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from chain_model import chain_model

__all__ = ["chain_model"]
