"""What a bench says of the processor time of a client beside a server's."""

import subprocess
import sys

import pytest
from benchmarks.support.cpu import ClientWatch, cores

BUSY = "import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


def test_only_intervals_in_which_the_server_works_count() -> None:
    samples = [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (2.0, 0.9, 1.25), (3.0, 1.8, 1.5), (4.0, 1.9, 2.5)]
    assert cores(samples) == pytest.approx(0.25)


def test_a_server_that_never_works_has_no_client() -> None:
    with pytest.raises(ValueError, match="did not work"):
        cores([(0.0, 0.0, 0.0), (1.0, 0.1, 1.0)])


def test_a_childs_time_is_the_clients_and_the_servers_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY.format(seconds=2.0)]) as server:
        with ClientWatch(server.pid, interval=0.1) as watch:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(0.8)"], check=True)
            subprocess.run([sys.executable, "-c", BUSY.format(seconds=0.8)], check=True)
        server.kill()
    # The child was busy for half of the time; on a machine that others use it gets less of a core.
    assert 0.1 < watch.cores() < 0.8
