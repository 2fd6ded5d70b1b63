"""How the search is led and what it may cost: agents, search, budget, payback, delivery, re-synthesis."""

from typing import Annotated, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule
from sartor_api.fields import KeyReference, ListSet, LocalReference, Money, Pattern, RelativePath
from sartor_api.quantities import DecimalString, Duration, Quantity

Trigger = Literal["modelRevision", "baselineVersion", "driver", "hardware", "drift", "skills"]


class Agents(ApiModel):
    """Who writes the code."""

    profile_ref: LocalReference | None = None
    """An AgentProfile in the same namespace; without one the `playbook` backend, which needs no model and no credentials."""
    skills: bool = True
    """Let the agents use the skills; `false` shows what the skills are worth."""


class Search(ApiModel):
    """How the outer loop looks for better stacks."""

    policy: Literal["trajectory", "evolutionary", "issue-queue"] = "trajectory"
    """`trajectory`: one line of improvements; `evolutionary`: a population of stacks; `issue-queue`: what promises most."""
    parallelism: Annotated[int, Field(ge=1, le=32)] = 1
    """Candidates in work at the same time, each on a branch of its own; they are measured one after the other."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Seed of the search's own choices (the sealed seeds of the measurements do not follow from it)."""
    plateau_rounds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Rounds in a row, each shown to bring no gain worth having, that are a plateau."""
    thrash_rounds: Annotated[int, Field(ge=1, le=1000)] = 6
    """Rounds in a row that brought nothing new to measure (rejected, or the same content again) that are thrashing."""
    on_plateau: Annotated[tuple[Literal["explore", "return"], ...], Field(max_length=8)] = ("explore", "return")
    """What the search does on a plateau, or when it thrashes, one step further each time, until a gain: `explore` asks for
    larger changes, `return` goes on from an earlier stack off the incumbent's line. After the last step it stops."""


class Budget(ApiModel):
    """What a search may spend. Running out is a normal end that keeps the best."""

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Rounds of plan, implement, judge, evaluate."""
    wall_clock: Duration = Duration("8h")
    """Time from the start to the end of the confirmation."""
    accelerator_hours: DecimalString | None = None
    """Hours of all accelerators together; unlimited if absent."""
    tokens: Quantity | None = None
    """Tokens of all model calls together (`20M`); unlimited if absent."""
    money: Money | None = None
    """Money for accelerators and model calls, at the prices of HardwareTarget and AgentProfile; unlimited if absent."""
    confirmation_reserve: Annotated[int, Field(ge=0, le=50)] = 15
    """Per cent of each budget that the confirmation draws on (time, accelerators, money) and that rounds may not touch."""

    rules = (
        Rule(
            cel=Duration.cel_at_least("self.wallClock", "1m"),
            message="wallClock is too short for anything; write 1m or more",
            holds=lambda budget: budget.wall_clock.seconds >= 60,
            field=".wallClock",
        ),
    )


class Payback(ApiModel):
    """Whether a search earns back what it costs, at the traffic that is to be served."""

    output_tokens_per_day: Quantity | None = None
    """Traffic to count with; by default what the baseline's Service was seen to serve."""
    within: Duration = Duration("90d")
    """Time in which the cost has to be earned back."""
    policy: Literal["warn", "require"] = "warn"
    """`warn`: say so and search; `require`: do not start, or go on, with a search that cannot pay."""

    rules = (
        Rule(
            cel="self.policy != 'require' || has(self.outputTokensPerDay)",
            message="policy require needs to know the traffic; set outputTokensPerDay",
            holds=lambda payback: payback.policy != "require" or payback.output_tokens_per_day is not None,
            field=".outputTokensPerDay",
        ),
    )


class GitDelivery(ApiModel):
    """A repository that takes the winner as a commit, for teams whose cluster follows git."""

    repository: Annotated[
        str, Pattern(r"(https://|ssh://|git@)[^\s]+", "a git address (https://…, ssh://… or git@…)", 2048)
    ]
    """Address of the repository."""
    branch: Annotated[str, Pattern(r"[\w][\w./-]*", "a branch name", 256)] = "main"
    """Branch that is committed to."""
    path: RelativePath
    """Folder that takes the manifests."""
    credentials_secret_ref: KeyReference
    """Secret with the credentials (`username` and `password`, or `identity` and `known_hosts`)."""
    pull_request: bool = False
    """Push a branch of its own (`sartor/NAME`) for a review, instead of committing to `branch`."""


class Delivery(ApiModel):
    """How the winner gets into the cluster."""

    mode: Literal["apply", "git", "none"] = "apply"
    """`apply`: Sartor applies it; `git`: Sartor commits it and whoever follows the repository applies it;
    `none`: it stays an artefact of the run."""
    git: GitDelivery | None = None
    """The repository, with mode `git`."""
    replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Replicas of the stack; by default as many as the baseline has. Not held once an autoscaler owns it."""
    autoscaled: bool = False
    """An autoscaler owns the number of replicas: Sartor sets it once and then leaves it alone."""

    rules = (
        Rule(
            cel="(self.mode == 'git') == has(self.git)",
            message="mode git and the field git belong together; set both or neither",
            holds=lambda delivery: (delivery.mode == "git") == (delivery.git is not None),
            field=".git",
        ),
    )


class Resynthesis(ApiModel):
    """When the search runs again. (Not called `on`: YAML 1.1 reads that key as a boolean.)

    A change of this spec always starts it, at once. Another value of the annotation `sartor.dev/resynthesize` does, too, as
    soon as the search under way has ended.
    """

    triggers: Annotated[tuple[Trigger, ...], Field(max_length=6), ListSet()] = ()
    """What else starts it, once the search before has ended and the cooldown is over: another image of the baseline's
    engine (`baselineVersion`), another `driver` or `hardware` (labels of the nodes, and what the HardwareTarget asks for),
    `drift` of the live speed-up out of its interval, new `skills`. A `modelRevision` is pinned in this spec, so that
    another one is a change of it. The status says which of them this version cannot see."""
    cooldown: Duration = Duration("7d")
    """Least time from the end of one search to the start of the next that a trigger begins."""
    drift_tolerance: Annotated[int, Field(ge=1, le=100)] = 10
    """Per cent by which the live speed-up may fall below the confirmed interval before that is drift."""
