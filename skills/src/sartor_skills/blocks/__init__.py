"""Every `skills/*/blocks` folder as one flat package.

Blocks are written as modules of a stack: flat, importing each other relatively. A composed stack is such a flat package, so
the same files must be importable in place for tests. Extending `__path__` does that without copying anything.
"""

from sartor_skills.library import library_root

__path__ = [str(folder) for folder in sorted(library_root().glob("*/blocks"))]
