"""`$(VAR)` references in commands, arguments and values.

Specification: k8s.io/kubernetes/third_party/forked/golang/expansion. `$$` is an escaped `$`; a reference to a variable that
is not there stays as it is written.
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with every known reference replaced, once: what is put in is not looked at again."""

    def replacement(found: re.Match[str]) -> str:
        name = found.group(1)
        if name is None:
            return "$"
        return variables.get(name, found.group(0))

    return _REFERENCE.sub(replacement, text)
