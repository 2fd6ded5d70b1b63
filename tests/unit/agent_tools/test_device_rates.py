"""The rates of a GPU: measured once, kept by UUID and driver, never guessed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor_agents.measurement.accelerators import AcceleratorState, NoAccelerators
from sartor_agents.tools.device_rates import ProbeError, Rates, Unknown, probe, rates


class Devices:
    """NVML's view of devices; `busy` are those that somebody computes on."""

    def __init__(self, *uuids: str, driver: str = "580", busy: tuple[str, ...] = ()) -> None:
        self.uuids, self.driver, self.busy = uuids, driver, busy

    def identity(self) -> list[dict[str, Any]]:
        return [{"name": "NVIDIA Example", "uuid": uuid, "driver": self.driver} for uuid in self.uuids]

    def state(self) -> tuple[AcceleratorState, ...]:
        return tuple(
            AcceleratorState(uuid, (), None, None, frozenset({7} if uuid in self.busy else ())) for uuid in self.uuids
        )


class Prober:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, uuid: str) -> Mapping[str, Any]:
        self.asked.append(uuid)
        return {"name": "NVIDIA Example", "read_bytes_per_second": 4e12, "bfloat16_flops": 7e14}


def test_each_device_is_measured_once_and_all_count_together(tmp_path: Path) -> None:
    prober = Prober()
    for _ in range(2):
        found = rates(Devices("GPU-a", "GPU-b"), tmp_path, prober)
        assert found == Rates(8e12, 1.4e15, ("NVIDIA Example",) * 2)
    assert prober.asked == ["GPU-a", "GPU-b"]


def test_another_driver_and_a_damaged_file_are_measured_again(tmp_path: Path) -> None:
    prober = Prober()
    rates(Devices("GPU-a"), tmp_path, prober)
    rates(Devices("GPU-a", driver="590"), tmp_path, prober)
    (kept,) = tmp_path.glob("device-rates/GPU-a-580.json")
    kept.write_text(kept.read_text()[:20])
    rates(Devices("GPU-a"), tmp_path, prober)
    kept.write_text(json.dumps({"name": "x", "read_bytes_per_second": 0, "bfloat16_flops": 1}))
    rates(Devices("GPU-a"), tmp_path, prober)
    assert len(prober.asked) == 4


def test_a_device_in_use_is_not_timed_but_what_is_known_of_it_counts(tmp_path: Path) -> None:
    prober = Prober()
    found = rates(Devices("GPU-a", busy=("GPU-a",)), tmp_path, prober)
    assert found == Unknown("NVIDIA Example is in use and was not measured before") and not prober.asked
    rates(Devices("GPU-a"), tmp_path, prober)
    assert isinstance(rates(Devices("GPU-a", busy=("GPU-a",)), tmp_path, prober), Rates)


def test_where_nothing_can_be_measured_the_reason_is_kept_and_no_figure(tmp_path: Path) -> None:
    def fails(uuid: str) -> Mapping[str, Any]:
        raise ProbeError("out of memory")

    assert rates(NoAccelerators(), tmp_path, fails) == Unknown("NVML shows no device here")
    assert rates(Devices("GPU-a"), tmp_path, fails) == Unknown("NVIDIA Example: out of memory")
    assert not list(tmp_path.glob("device-rates/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
def test_the_real_probe_says_that_there_is_no_device() -> None:
    with pytest.raises(ProbeError, match="sees no CUDA device"):
        probe("GPU-a")
