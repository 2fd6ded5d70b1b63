"""Which role has which tools."""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.backends.conversation.tool import AnyTool
from sartor_agents.backends.protocol import ImplementContext, PlanContext
from sartor_agents.run.device import AS_IT_IS, Access
from sartor_agents.run.sandbox.command import CommandSandbox, Isolation
from sartor_agents.run.sandbox.limits import Limits
from sartor_agents.tools.candidate import SendRequest, StartCandidate, StopCandidate
from sartor_agents.tools.commands import ApplyPatch, RunCommand, Search
from sartor_agents.tools.files import DeleteFile, EditFile, ListFiles, ReadFile, WriteFile
from sartor_agents.tools.paths import View
from sartor_agents.tools.planner import History, Issues, Measurements, RooflineEstimate
from sartor_agents.tools.profile import Profile
from sartor_agents.tools.review import ShowChecklist, ShowDiff
from sartor_agents.tools.server import CandidateServer
from sartor_agents.tools.skills import ListSkills, ReadSkill, Shelf
from sartor_agents.tools.smoke import SmokeCheck


@dataclass(frozen=True)
class ImplementerTools:
    """`skills_used`: names of the skills that were read, as they come to be read."""

    tools: tuple[AnyTool, ...]
    sandbox: CommandSandbox
    skills_used: set[str]


@dataclass(frozen=True)
class PlannerTools:
    tools: tuple[AnyTool, ...]
    skills_used: set[str]


@contextlib.contextmanager
def implementer_tools(
    context: ImplementContext,
    *,
    scratch: Path,
    checkpoint: Path | None,
    limits: Limits | None = None,
    isolation: Isolation = Isolation.BUBBLEWRAP,
    access: Access = AS_IT_IS,
) -> Generator[ImplementerTools]:
    """The implementer's tools over `context.worktree`; a candidate that still runs is ended with the context.

    `scratch`: see `CommandSandbox`. `access`: what commands see of accelerators. `checkpoint` is the model's folder with its
    weights; None where candidates cannot be started: then the tools that need one are not there.
    """
    sandbox = CommandSandbox(
        context.worktree,
        scratch,
        limits or Limits(),
        isolation,
        readable={"/skills": context.skills_root} if context.skills_root is not None else {},
        model_dir=checkpoint or context.model_dir,
        environment=access.environment,
        nodes=access.nodes,
    )
    # Weights are for programs. What a model reads is the configuration.
    view = View(context.worktree, {"/model": context.model_dir, **sandbox.readable})
    tools: list[AnyTool] = [
        ListFiles(view), ReadFile(view), Search(view, sandbox), WriteFile(view), EditFile(view), ApplyPatch(sandbox),
        DeleteFile(view), RunCommand(sandbox),
    ]  # fmt: skip
    shelf = None
    if context.skills_root is not None:
        shelf = Shelf(context.skills_root, context.run.platform, context.run.scenario)
        tools += [ListSkills(shelf), ReadSkill(shelf)]
    with contextlib.ExitStack() as stack:
        if checkpoint is not None:
            server = CandidateServer(sandbox)
            stack.callback(server.close)
            check = SmokeCheck(server, context.run, checkpoint)
            tools += [StartCandidate(server), SendRequest(server), check, Profile(sandbox), StopCandidate(server)]
        yield ImplementerTools(tuple(tools), sandbox, shelf.used if shelf is not None else set())


def planner_tools(
    context: PlanContext,
    *,
    incumbent: Path | None = None,
    scratch: Path | None = None,
    checkpoint: Path | None = None,
    isolation: Isolation = Isolation.BUBBLEWRAP,
) -> PlannerTools:
    """The planner's tools. `incumbent`: a worktree with the incumbent's files; with `scratch` it can be searched, and with
    `checkpoint` (the model's folder with its weights) profiled."""
    tools: list[AnyTool] = [History(context), Measurements(context), Issues(context), RooflineEstimate(context)]
    shelf = (
        Shelf(context.skills_root, context.run.platform, context.run.scenario)
        if context.skills_root is not None
        else None
    )
    if shelf is not None:
        tools += [ListSkills(shelf), ReadSkill(shelf)]
    if incumbent is not None:
        view = View(incumbent, {"/model": context.model_dir})
        tools += [ListFiles(view), ReadFile(view)]
        if scratch is not None:
            sandbox = CommandSandbox(incumbent, scratch, isolation=isolation, model_dir=checkpoint or context.model_dir)
            tools.append(Search(view, sandbox))
            if checkpoint is not None:
                tools.append(Profile(sandbox))
    return PlannerTools(tuple(tools), shelf.used if shelf is not None else set())


def review_tools(worktree: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[AnyTool, ...]:
    """The reviewer's tools: nothing that writes, nothing that runs. `before` and `after` are files of `stack/` by path."""
    view = View(worktree, {})
    return (ShowChecklist(), ShowDiff(before, after), ListFiles(view), ReadFile(view))
