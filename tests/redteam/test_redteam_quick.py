"""Every kind of catch once, in seconds: real candidates in the real sandbox, the gates in this process."""

import pytest
from redteam_range import Range
from redteam_registry import CHEATS, Cheat
from redteam_trial import parameters, try_cheat, try_twin


@pytest.mark.parametrize("cheat", parameters(cheat for cheat in CHEATS if cheat.quick))
def test_a_cheat_is_rejected_by_its_own_reason(quick_range: Range, cheat: Cheat) -> None:
    try_cheat(quick_range, cheat)


@pytest.mark.parametrize("name", ["short_answers"])
def test_its_honest_twin_passes(quick_range: Range, name: str) -> None:
    try_twin(quick_range, next(cheat for cheat in CHEATS if cheat.name == name))
