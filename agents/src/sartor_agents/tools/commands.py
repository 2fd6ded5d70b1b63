"""Commands in the sandbox: search, a patch, and whatever a model wants to run."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.run.sandbox.command import CommandResult, CommandSandbox, Isolation
from sartor_agents.run.sandbox.walls import PORTS
from sartor_agents.run.storage import storage_errors
from sartor_agents.tools.files import Parameters
from sartor_agents.tools.paths import PathError, View

SEARCHING = Path(__file__).parent / "inside" / "searching.py"
SEARCH_SECONDS = 20.0
SEARCH_LINES = 150
PATCH_SECONDS = 30.0
LONGEST_COMMAND = 32 << 10


class SearchParameters(Parameters):
    pattern: str = Field(
        min_length=1, max_length=1000, description="A regular expression (Python's), matched line by line."
    )
    path: str = Field(default="", description="A file or folder; empty: the workspace.")
    glob: str | None = Field(default=None, max_length=200, description="Only files with such a name, as *.py.")
    ignore_case: bool = False
    context: int = Field(default=0, ge=0, le=10, description="Lines to show before and after each hit.")


@dataclass(frozen=True)
class Search:
    """`search`."""

    view: View
    sandbox: CommandSandbox
    name: str = "search"
    description: str = "Search file contents below a folder by a regular expression; gives path:line:text."
    parameters: type[SearchParameters] = SearchParameters

    def call(self, parameters: SearchParameters, /) -> ToolResult:
        try:
            root, parts = self.view.split(parameters.path)
        except PathError as error:
            return ToolResult(str(error), failed=True)
        options = {
            "pattern": parameters.pattern,
            "folders": ["/".join((root, *parts)) if parameters.path.startswith("/") else "/".join(parts) or "."],
            "glob": parameters.glob,
            "ignore_case": parameters.ignore_case,
            "context": parameters.context,
            "most": SEARCH_LINES,
        }
        shown = replace(self.sandbox, readable={**self.sandbox.readable, "/run/tools/searching.py": SEARCHING})
        command = ("python", "-I", "-S", "/run/tools/searching.py", json.dumps(options))
        result = shown.run(command, seconds=SEARCH_SECONDS, keep=False)
        if result.problem is not None:
            return ToolResult(f"The search was ended ({result.problem}); use a simpler expression.", failed=True)
        if result.code not in (0, 1):
            return ToolResult(result.output or "the search failed", failed=True)
        return ToolResult(result.output)


class PatchParameters(Parameters):
    patch: str = Field(
        min_length=1,
        max_length=1 << 20,
        description="A unified diff as `git diff` writes it (paths a/stack/… and b/stack/…); files may be new or deleted.",
    )


@dataclass(frozen=True)
class ApplyPatch:
    """`apply_patch`."""

    sandbox: CommandSandbox
    name: str = "apply_patch"
    description: str = "Apply a unified diff to files below stack/: all of it or nothing."
    parameters: type[PatchParameters] = PatchParameters

    def call(self, parameters: PatchParameters, /) -> ToolResult:
        folder = self.sandbox.scratch / "patch"
        data = parameters.patch.encode()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "change.diff").write_bytes(data if data.endswith(b"\n") else data + b"\n")
        shown = replace(self.sandbox, readable={**self.sandbox.readable, "/run/patch": folder})
        command = ("git", "apply", "--recount", "--whitespace=nowarn", "--verbose", "/run/patch/change.diff")
        result = shown.run(command, seconds=PATCH_SECONDS)
        if result.code != 0:
            return ToolResult(f"The patch does not apply; nothing was changed.\n{result.output}", failed=True)
        return ToolResult(f"Applied.\n{result.output}{_refused(result)}", failed=bool(result.refused))


class CommandParameters(Parameters):
    command: str = Field(min_length=1, max_length=LONGEST_COMMAND, description="For /bin/sh, in the workspace.")
    seconds: float = Field(default=120.0, gt=0, le=3600, description="When to end it.")


@dataclass(frozen=True)
class RunCommand:
    """`run_command`."""

    sandbox: CommandSandbox
    name: str = "run_command"
    parameters: type[CommandParameters] = CommandParameters

    @property
    def description(self) -> str:
        limits = self.sandbox.limits
        return (
            "Run a shell command in a sandbox: no network, the workspace with your stack/ as working folder, Python with "
            "its packages and compilers of the machine. Changes below stack/ are kept, everything else is gone afterwards, "
            f"processes too. Limits: {limits.seconds:.0f} s, {limits.memory_bytes >> 20} MiB of memory, "
            f"{limits.processes} processes; of a long output the middle is left out.{_moved(self.sandbox)}"
            f"{surroundings(self.sandbox)}"
        )

    def call(self, parameters: CommandParameters, /) -> ToolResult:
        if "\0" in parameters.command:
            return ToolResult("a command holds no NUL; nothing was done", failed=True)
        return told(self.sandbox.run(("/bin/sh", "-c", parameters.command), seconds=parameters.seconds))


def surroundings(sandbox: CommandSandbox) -> str:
    """What is special about commands in a pod, in sentences that follow others; empty elsewhere."""
    if sandbox.isolation is not Isolation.POD:
        return ""
    return (
        " Temporary files go to $TMPDIR; /tmp is closed. A server that you start to try it has to listen on 127.0.0.1, on a "
        f"port from {PORTS.start} to {PORTS.stop - 1}: no other port can be used."
    )


def _moved(sandbox: CommandSandbox) -> str:
    """Where commands find what other tools know by another path."""
    places = [(place, sandbox.shown(place)) for place in ("/skills", "/model")]
    return "".join(f" For commands {place} is {shown}." for place, shown in places if shown != place)


def told(result: CommandResult) -> ToolResult:
    """A command's end as a model reads it: how it ended first, then what it wrote."""
    ends = {
        "TimedOut": "ended: it was over its time",
        "MemoryExceeded": "ended: it used more memory than it may",
        "ProcessesExceeded": "ended: it started more processes than it may",
        "DiskExceeded": "ended: it wrote more onto the disk than it may",
        "Stopped": "stopped",
    }
    how = ends.get(result.problem or "", f"exit code {result.code}")
    kept = "" if result.kept else "\n[changes to stack/ were not kept]"
    return ToolResult(
        f"[{how}, {result.seconds:.1f} s]{kept}{_refused(result)}\n{result.output}",
        failed=result.code != 0 or result.problem is not None,
    )


def _refused(result: CommandResult) -> str:
    if not result.refused:
        return ""
    return "\n[not kept: " + "; ".join(result.refused) + "]"
