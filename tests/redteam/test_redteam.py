"""Every cheat and every twin, the whole way: sandbox, judge and evaluator as `sartor run` starts them (`make redteam`)."""

import pytest
from redteam_page import watched
from redteam_range import Range
from redteam_registry import CHEATS, Cheat
from redteam_trial import parameters, try_cheat, try_twin

pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("cheat", parameters(CHEATS))
def test_a_cheat_is_rejected_by_its_own_reason(full_range: Range, cheat: Cheat) -> None:
    watched(cheat.name, "cheat", lambda: try_cheat(full_range, cheat), own_processes=True)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_its_honest_twin_passes(full_range: Range, cheat: Cheat) -> None:
    watched(cheat.name, "twin", lambda: try_twin(full_range, cheat), own_processes=True)
