"""A candidate's committed files, written out for building and serving (`run.candidates`).

What is started is what was committed: the files are written from the commit, their hash is compared with the one that gates
pass, and only then something of it runs. The worktree that the implementer wrote into is never executed.
"""

import shutil
from pathlib import Path

from sartor_agents.run.candidates import CandidateError
from sartor_agents.run.content import content_hash
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.storage import storage_errors


def checkout(repository: RunRepository, layout: RunLayout, commit: str, expected_hash: str) -> Path:
    """The folder that holds the `stack/` of this commit, written anew unless it is there already and whole.

    Raises `CandidateError` when the commit does not have the content that was judged.
    """
    files = repository.candidate_files(commit)
    if content_hash(files) != expected_hash:
        raise CandidateError(
            "ContentChanged", f"commit {commit[:12]} does not hold the content {expected_hash[:12]} that was committed"
        )
    folder = layout.work / f"checkout-{expected_hash[:16]}"
    if all((folder / path).is_file() and (folder / path).read_bytes() == data for path, data in files.items()):
        return folder
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
    repository.export(commit, folder)
    return folder
