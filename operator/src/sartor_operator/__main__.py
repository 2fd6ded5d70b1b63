"""`python -m sartor_operator` is `sartor-operator`."""

import sys

from sartor_operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
