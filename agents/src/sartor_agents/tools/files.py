"""Reading and writing files: what a model sees of the workspace, the model's configuration and the skills."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.run.content import MAX_BYTES, MAX_FILES, is_derived
from sartor_agents.run.storage import storage_errors
from sartor_agents.tools.paths import WRITABLE, PathError, View, opened_folder, read_file, remove_file, write_file

READ_BYTES = 2 << 20
READ_LINES = 400
LONGEST_LINE = 1000
WRITE_BYTES = 1 << 20
LISTED = 400


class Parameters(BaseModel):
    """Base of all parameters: an unknown argument is a mistake, and never one of the tool's names for nothing."""

    model_config = ConfigDict(extra="forbid")


class ReadParameters(Parameters):
    path: str = Field(description="A file: stack/app.py, /model/config.json, /skills/NAME/SKILL.md.")
    first_line: int = Field(default=1, ge=1, description="Line to begin with.")
    lines: int = Field(default=READ_LINES, ge=1, le=2000, description="How many lines.")


@dataclass(frozen=True)
class ReadFile:
    """`read_file`."""

    view: View
    name: str = "read_file"
    description: str = (
        "Read a text file with its line numbers. Paths are relative to the workspace, or begin with /model (the model's "
        "configuration) or /skills. Long files come in parts: ask for the next lines."
    )
    parameters: type[ReadParameters] = ReadParameters

    def call(self, parameters: ReadParameters, /) -> ToolResult:
        try:
            root, parts = self.view.split(parameters.path)
            data = read_file(self.view.folder(root), parts, READ_BYTES)
            text = _text(parameters.path, data)
        except PathError as error:
            return ToolResult(str(error), failed=True)
        lines = text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        begin = parameters.first_line - 1
        shown = lines[begin : begin + parameters.lines]
        if not shown:
            return ToolResult(f"{parameters.path} has {len(lines)} lines.", failed=bool(lines) or begin > 0)
        body = "\n".join(f"{begin + number:6}\t{_cut(line)}" for number, line in enumerate(shown, 1))
        more = len(lines) - begin - len(shown)
        return ToolResult(
            body + (f"\n[{more} more lines; go on with first_line {begin + len(shown) + 1}]" if more else "")
        )


class ListParameters(Parameters):
    path: str = Field(default="", description="A folder; empty: the workspace.")


@dataclass(frozen=True)
class ListFiles:
    """`list_files`."""

    view: View
    name: str = "list_files"
    description: str = "List all files below a folder, with their sizes in bytes."
    parameters: type[ListParameters] = ListParameters

    def call(self, parameters: ListParameters, /) -> ToolResult:
        try:
            root, parts = self.view.split(parameters.path)
            top = self.view.folder(root)
            with opened_folder(top, parts):
                found = _files(top.joinpath(*parts), top)
        except PathError as error:
            return ToolResult(str(error), failed=True)
        lines = [f"{size:>9}  {name}" for name, size in found[:LISTED]]
        if len(found) > LISTED:
            lines.append(f"[{len(found) - LISTED} more; list a folder below]")
        return ToolResult("\n".join(lines) or "There are no files.")


class WriteParameters(Parameters):
    path: str = Field(description="A file below stack/; folders are made.")
    content: str = Field(description="The whole new content.")


@dataclass(frozen=True)
class WriteFile:
    """`write_file`."""

    view: View
    name: str = "write_file"
    description: str = "Write a whole file below stack/. For a change to a long file use edit_file or apply_patch."
    parameters: type[WriteParameters] = WriteParameters

    def call(self, parameters: WriteParameters, /) -> ToolResult:
        return _write(self.view, parameters.path, parameters.content)


class EditParameters(Parameters):
    path: str = Field(description="A file below stack/.")
    old: str = Field(min_length=1, description="The text to replace, exactly as it stands in the file.")
    new: str = Field(description="The text to put in its place.")
    everywhere: bool = Field(default=False, description="Replace every occurrence; else there must be exactly one.")


@dataclass(frozen=True)
class EditFile:
    """`edit_file`."""

    view: View
    name: str = "edit_file"
    description: str = (
        "Replace a piece of text in a file below stack/. The old text must be unique, unless `everywhere`."
    )
    parameters: type[EditParameters] = EditParameters

    def call(self, parameters: EditParameters, /) -> ToolResult:
        try:
            parts = self.view.writable(parameters.path)
            text = _text(parameters.path, read_file(self.view.worktree, parts, READ_BYTES))
        except PathError as error:
            return ToolResult(str(error), failed=True)
        count = text.count(parameters.old)
        if count == 0:
            return ToolResult(
                f"{parameters.path} does not hold the old text. {_nearest(text, parameters.old)}Nothing was changed.",
                failed=True,
            )
        if count > 1 and not parameters.everywhere:
            return ToolResult(
                f"{parameters.path} holds the old text {count} times; give more of its surroundings, or set `everywhere`. "
                "Nothing was changed.",
                failed=True,
            )
        return _write(self.view, parameters.path, text.replace(parameters.old, parameters.new))


class DeleteParameters(Parameters):
    path: str = Field(description="A file below stack/.")


@dataclass(frozen=True)
class DeleteFile:
    """`delete_file`."""

    view: View
    name: str = "delete_file"
    description: str = "Remove a file below stack/."
    parameters: type[DeleteParameters] = DeleteParameters

    def call(self, parameters: DeleteParameters, /) -> ToolResult:
        try:
            remove_file(self.view.worktree, self.view.writable(parameters.path))
        except PathError as error:
            return ToolResult(str(error), failed=True)
        return ToolResult(f"{parameters.path} is removed.")


def _write(view: View, path: str, content: str) -> ToolResult:
    data = content.encode()
    if len(data) > WRITE_BYTES:
        return ToolResult(f"{path}: {len(data)} bytes are more than the {WRITE_BYTES} of one file", failed=True)
    try:
        parts = view.writable(path)
        sizes = dict(_files(view.worktree / WRITABLE, view.worktree)) if (view.worktree / WRITABLE).is_dir() else {}
        name = "/".join(parts)
        if len(sizes.keys() | {name}) > MAX_FILES or sum(sizes.values()) - sizes.get(name, 0) + len(data) > MAX_BYTES:
            return ToolResult(
                f"{path}: a stack has at most {MAX_FILES} files and {MAX_BYTES >> 20} MiB; nothing was written",
                failed=True,
            )
        with storage_errors(view.worktree):
            write_file(view.worktree, parts, data)
    except PathError as error:
        return ToolResult(str(error), failed=True)
    lines = content.count("\n") + (not content.endswith("\n") and bool(content))
    return ToolResult(f"{path} is written: {lines} lines, {len(data)} bytes.")


def _files(folder: Path, top: Path) -> list[tuple[str, int]]:
    """Plain files below `folder` by their path below `top`, without what building made."""
    found: list[tuple[str, int]] = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        relative = Path(parent).relative_to(top)
        folders[:] = sorted(name for name in folders if not is_derived(PurePosixPath(relative / name)))
        for name in sorted(names):
            status = (Path(parent) / name).lstat()
            if stat.S_ISREG(status.st_mode) and not is_derived(PurePosixPath(relative / name)):
                found.append((os.fsencode(relative / name).decode(errors="replace"), status.st_size))
    return found


def _text(path: str, data: bytes) -> str:
    if len(data) > READ_BYTES:
        raise PathError(f"{path}: has more than {READ_BYTES >> 20} MiB; look at it with a command")
    if b"\0" in data[:8192]:
        raise PathError(f"{path}: is not text")
    return data.decode(errors="replace")


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + f" [… {len(line) - LONGEST_LINE} more]"


def _nearest(text: str, old: str) -> str:
    """Where the first line of the wanted text stands, if it does: white space is what differs most often."""
    wanted = next((line.strip() for line in old.splitlines() if line.strip()), "")
    places = [number for number, line in enumerate(text.splitlines(), 1) if wanted and wanted in line]
    if not places:
        return ""
    return (
        f"Its first line stands in line {', '.join(map(str, places[:5]))}; compare what follows and the white space. "
    )
