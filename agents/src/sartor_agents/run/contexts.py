"""What a planner is told of a run: the same on one machine and in a cluster. Pure."""

from pathlib import Path

from sartor_agents.backends.protocol import HardwareFacts, PlanContext
from sartor_agents.memory.brief import brief
from sartor_api.search.decide import Begin
from sartor_api.search.directive import Directive
from sartor_api.search.issues import issues
from sartor_api.search.records import BaselineRecord
from sartor_api.search.state import RunState
from sartor_api.search.wire import StepBegin


def plan_context(
    run: RunState,
    begin: Begin | StepBegin,
    *,
    model_dir: Path,
    hardware: HardwareFacts,
    baseline: BaselineRecord,
    skills_root: Path | None,
) -> PlanContext:
    """For the plan step `begin`. `model_dir` holds the model's configuration files only."""
    directive = begin.directive or Directive()
    return PlanContext(
        run=run.spec,
        round=begin.round,
        model_dir=model_dir,
        hardware=hardware,
        baseline=baseline,
        rounds=run.closed_rounds,
        in_work=tuple(one for one in run.open_rounds if one.number != begin.round),
        incumbent=run.best.round if run.best else None,
        head=run.head,
        skills_root=skills_root,
        roadmap=brief(run, directive, message=begin.message),
        directive=directive,
        issues=issues(run),
        message=begin.message,
        refused=tuple(run.retried(begin.step, begin.round, begin.attempt)),
        allowance=begin.reserve,
    )
