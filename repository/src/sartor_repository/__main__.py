import sys

from sartor_repository.cli import main

sys.exit(main())
