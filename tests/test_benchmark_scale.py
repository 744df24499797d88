"""Tests for `../scripts/benchmarks/scale.py`: its network carries, its model explains."""

import shutil
import subprocess

import pytest

from scripts.benchmarks import scale
from scripts.benchmarks.scale import Constants, Network

NOTHING = Constants(message=0.0, slowdown=1.0, request=0.0)


def namespaces() -> bool:
    """Whether this machine lets a process have a network of its own."""
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    device = ["unshare", "-rn", "ip", "tuntap", "add", "net", "mode", "tun"]
    return subprocess.run(device, capture_output=True).returncode == 0


def test_four_workers_sum_and_read_over_the_network():
    """Each checks its sums; no exchange is faster than the network that was asked for."""
    if not namespaces():
        pytest.skip("this machine has no network namespaces")
    network = Network(latency=0.02, rate=1e8, loss=0.01)
    found = scale.measure(4, 4000, network, repeats=1)
    for how in ("ring", "tree"):
        assert found[how] >= scale.exchange(how, 4, 4000, network, NOTHING)
    assert found["heartbeats"] >= scale.heartbeats(4, True, network, NOTHING)


def test_the_model_counts_hops_and_requests():
    network = Network(latency=0.5, rate=100.0)
    assert scale.exchange("ring", 4, 400, network, NOTHING) == 6 * (0.5 + 1.0)
    assert scale.exchange("tree", 4, 400, network, NOTHING) == 4 * (0.5 + 4.0)
    assert scale.requests(512, True) == 4 + 3 * 511 and scale.requests(512, False) == 4 + 3 * 4


def test_the_constants_explain_the_run_that_they_come_from():
    network, known = Network(latency=0.001, rate=1e6), Constants(0.002, 1.25, 0.003, 0.2, 0.1)
    two = {
        how: scale.exchange("ring", 2, n, network, known) for how, n in (("hop", 0), ("ring", 9000))
    }
    two["heartbeats"] = scale.heartbeats(2, True, network, known)
    lossy = Network(0.001, 1e6, 0.01)
    lost = {"ring": scale.exchange("ring", 2, 9000, lossy, known)}
    lost["heartbeats"] = scale.heartbeats(2, True, lossy, known)
    found = scale.fitted(two, lost, 9000, network, 0.01)
    assert vars(found) == pytest.approx(vars(known))
