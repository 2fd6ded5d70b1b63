"""Where the skill folders lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path


def library_root() -> Path:
    """The folder that holds one folder per skill.

    Raises `FileNotFoundError` when neither place has skills (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for root in (package / "_library", package.parents[1]):
        if (root / "serving-core" / "SKILL.md").is_file() or (root / "serving-core" / "blocks").is_dir():
            return root
    raise FileNotFoundError(f"no skills beside {package}; reinstall sartor-skills")
