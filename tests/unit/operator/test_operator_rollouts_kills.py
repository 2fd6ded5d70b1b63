"""A process that is killed after any write of a rollout's life makes no second rollout and loses no traffic."""

import random

import pytest
from rolling_world import LONGER, Rolling

from sartor_operator import names
from sartor_operator.kinds import EVENT, ROLLOUT

Life = tuple[list[tuple[str, int]], list[str], list[str]]


def one_after_the_other(cluster: Rolling) -> None:
    """A first winner with all traffic, and a second one that takes over from it."""
    cluster.run(cluster.phase("Serving"))
    cluster.edit(budget=LONGER)
    cluster.run(lambda: cluster.phase("Serving")() and len(cluster.rollouts) == 2)


def back_and_gone(cluster: Rolling) -> None:
    """A winner that comes back, and is cleared away."""
    cluster.verdicts.says = lambda step: "fail" if step.number == 2 else "pass"
    cluster.run(lambda: cluster.phase("RolledBack")() and not cluster.stacks)


def life(cluster: Rolling) -> Life:
    """What a life is told by: who had which share in which order, the rollouts that were made, the Events."""
    shares = [(service, share) for found in cluster.world.shares for service, share in sorted(found.items())]
    made = sorted(names.name_of(r) for r in cluster.world.all(ROLLOUT))
    told = sorted(f"{e['reason']}: {e['involvedObject']['name']}" for e in cluster.world.all(EVENT))
    return shares, made, told


LIVES = [one_after_the_other, back_and_gone]


def calm(story: object) -> tuple[Rolling, int]:
    """The life without kills, and the number of writes before its first stack is delivered."""
    cluster = Rolling()
    story(cluster)  # type: ignore[operator]
    return cluster, next(n for n, w in enumerate(cluster.world.writes) if "-stack-" in w and "Deployment" in w)


@pytest.mark.parametrize("story", LIVES, ids=lambda s: s.__name__)
def test_killed_after_each_write_of_one_life(story: object) -> None:
    """No process lives for more than one write."""
    whole, _ = calm(story)
    cluster = Rolling()
    cluster.world.kill_every = True
    story(cluster)  # type: ignore[operator]
    assert life(cluster) == life(whole)


@pytest.mark.parametrize("seed", range(3))
def test_late_watches_make_no_second_rollout(seed: int) -> None:
    """Events come late, kind by kind in any mixture."""
    draw = random.Random(seed)
    cluster = Rolling(late=lambda _kind: draw.random() < 0.4)
    one_after_the_other(cluster)
    assert [r["status"]["phase"] for r in cluster.rollouts] == ["Promoted", "Promoted"]
    assert not [w for w in cluster.world.writes if w.startswith("delete ServingRollout")], "none was made in vain"


@pytest.mark.exhaustive
@pytest.mark.parametrize("story", LIVES, ids=lambda s: s.__name__)
def test_killed_after_every_single_write(story: object) -> None:
    """Enumerated: for each write from the delivery on, the process is killed right after it, and a new one goes on."""
    whole, first = calm(story)
    assert len(whole.world.writes) - first > 20
    for point in range(first + 1, len(whole.world.writes) + 1):
        cluster = Rolling()
        cluster.world.kill_after = point
        story(cluster)  # type: ignore[operator]
        assert life(cluster) == life(whole), point
