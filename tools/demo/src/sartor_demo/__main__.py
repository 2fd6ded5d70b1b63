import sys

from sartor_demo.cli import main

sys.exit(main())
