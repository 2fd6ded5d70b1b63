"""The helpers of the tests of the driver, of measurement and of the git service serve here, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "run"))
sys.path.insert(0, str(Path(__file__).parents[1] / "repository"))
sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "provider"))
sys.path.insert(0, str(Path(__file__).parents[1] / "model_proxy"))

from chain_model import chain_model

__all__ = ["chain_model"]
