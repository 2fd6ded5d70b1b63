"""`python -m sartor_runner` is `sartor-runner`."""

import sys

from sartor_runner.cli import main

sys.exit(main())
