"""What has to be settled before any test module is imported."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    # Triton chooses between compiler and interpreter once, when it is first imported, by whoever that may be.
    os.environ.setdefault("TRITON_INTERPRET", "1")
