"""Simulates up to 512 workers: exchange of gradients, heartbeats, start, order and index.

    python scripts/benchmarks/scale.py [--latency_ms 1 --mbit 100 --loss 0.001]

Up to 8 workers are processes that exchange packets over a simulated network (scale_worker.py): each
has a network namespace with a TUN device, and this program carries the packets from one to another
with the latency, the rate and the loss that were asked for (the kernel's netem is often absent).
From the run of two workers come the constants of a model, which the larger runs test and which is
then evaluated for the network of a cluster. The model leaves out: NCCL's pipelining and NVLink,
congestion between a cluster's switches, the computation of gradients, and other users.
"""

import contextlib
import dataclasses
import heapq
import json
import math
import os
import random
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.benchmarks import scale_worker
from scripts.benchmarks.scale_worker import READ_TRIPS, WRITE_TRIPS
from squeezenext import cli, stats, tf_import
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory
from squeezenext.records import reader
from squeezenext.records.dataset import Shard, Split
from squeezenext.train.watchdog import HEARTBEAT_SECONDS, NEIGHBOURS

MTU, HEADERS = 9000, 52  # bytes of a packet, and of its IP and TCP headers with time stamps
MODELLED = (8, 16, 32, 64, 128, 256, 512)
IMAGENET = {"ImageNet-1k": 1_281_167, "ImageNet-21k": 14_200_000}
IMAGES_A_SHARD, BYTES_A_RECORD = 1251, 110_000


@dataclasses.dataclass(frozen=True)
class Network:
    """The network between any two nodes."""

    latency: float  # seconds of one way
    rate: float  # bytes a second that a node can send
    loss: float = 0.0  # share of lost packets


@dataclasses.dataclass(frozen=True)
class Constants:
    """The costs of software, measured with two workers."""

    message: float  # seconds of a hop beyond latency and rate
    slowdown: float  # time of a byte, in parts of 1 / rate
    request: float  # seconds of a round trip to the file server beyond the latency
    stall: float = 0.0  # seconds that a lost packet of an exchange costs
    timeout: float = 0.0  # the same of a request, which no later packet shows to be lost


def packets(workers: int, size: int) -> float:
    """Returns the packets of one all-reduce of `size` bytes, ring or tree."""
    return 2 * (workers - 1) * size / (MTU - HEADERS)


def exchange(how: str, workers: int, size: int, network: Network, known: Constants) -> float:
    """Returns the seconds of an all-reduce of `size` bytes."""
    hops = 2 * (workers - 1) if how == "ring" else 2 * math.ceil(math.log2(workers))
    part = size / workers if how == "ring" else size
    hop = network.latency + known.message + known.slowdown * part / network.rate
    return hops * hop + known.stall * network.loss * packets(workers, size)


def requests(workers: int, chief: bool) -> int:
    """Returns the round trips of one round of heartbeats: all are read by the chief alone."""
    read = workers - 1 if chief else min(workers - 1, NEIGHBOURS + 1)
    return WRITE_TRIPS + read * READ_TRIPS


def heartbeats(workers: int, chief: bool, network: Network, known: Constants) -> float:
    """Returns the seconds of one round of a worker's heartbeats."""
    trip = 2 * (network.latency + network.loss * known.timeout) + known.request
    return requests(workers, chief) * trip


def fitted(two: dict, lossy: dict | None, size: int, network: Network, loss: float) -> Constants:
    """Returns the constants that explain the seconds of two workers, without and with loss."""
    message = two["hop"] / 2 - network.latency
    slowdown = (two["ring"] - two["hop"]) * network.rate / size
    request = two["heartbeats"] / requests(2, True) - 2 * network.latency
    if not lossy:
        return Constants(message, slowdown, request)
    late = {name: max(0.0, lossy[name] - two[name]) / loss for name in ("ring", "heartbeats")}
    stall, timeout = late["ring"] / packets(2, size), late["heartbeats"] / (2 * requests(2, True))
    return Constants(message, slowdown, request, stall, timeout)


# The network of processes


def carry(tuns: Sequence[int], network: Network, ended: threading.Event) -> None:
    """Carries packets between the nodes until `ended`; each node sends at the network's rate."""
    free, waiting, count = [0.0] * len(tuns), [], 0
    while not ended.is_set():
        limit = waiting[0][0] - time.monotonic() if waiting else 0.1
        ready, _, _ = select.select(tuns, [], [], min(max(limit, 0.0), 0.1))
        now = time.monotonic()
        for tun in ready:
            try:
                packet, node = os.read(tun, MTU), tuns.index(tun)
            except OSError:  # as below
                continue
            target = packet[19] - 1  # the last byte of the receiver's address
            if packet[0] >> 4 != 4 or not 0 <= target < len(tuns):
                continue  # IPv6 looks for neighbours
            free[node] = max(free[node], now) + len(packet) / network.rate
            if random.random() >= network.loss:
                count += 1
                heapq.heappush(waiting, (free[node] + network.latency, count, target, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a worker that has ended takes its network with it
                os.write(tuns[target], packet)


@contextlib.contextmanager
def nodes(workers: int, task: dict, network: Network) -> Iterator[list[subprocess.Popen]]:
    """Starts the workers and the file server; ends the server and the network afterwards."""
    ended, processes, ports, tuns = threading.Event(), [], [], []
    carrier = threading.Thread(target=carry, args=(tuns, network, ended))
    try:
        for node in range(workers + 1):
            own, given = socket.socketpair()
            what = task | {"node": node, "workers": workers, "mtu": MTU, "port": given.fileno()}
            command = ["unshare", "-rn", sys.executable, scale_worker.__file__, json.dumps(what)]
            with given:
                processes.append(
                    subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[given.fileno()])
                )
            ports.append(own)
        for port in ports:
            found = socket.recv_fds(port, 2, 1)[1]
            if not found:
                raise InputError(
                    "A worker has no network: unshare -rn, ip and /dev/net/tun make it."
                )
            tuns += found
        carrier.start()
        for port in ports:
            port.sendall(b"!")
        yield processes[:-1]
    finally:
        ended.set()
        if carrier.is_alive():
            carrier.join()
        for port in ports:
            port.close()
        for process in processes:
            process.kill()
            process.wait()
        for descriptor in tuns:
            os.close(descriptor)


def measure(workers: int, size: int, network: Network, repeats: int) -> dict[str, float]:
    """Runs so many workers and returns the seconds of each thing, those of the slowest worker.

    Of repeats the median counts, with loss the mean: losses are rare and long.
    """
    average = statistics.mean if network.loss else statistics.median
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / model_directory.WORKERS).mkdir()
        task = {"values": size // 4, "repeats": repeats, "folder": folder}
        with nodes(workers, task, network) as processes:
            found = [json.loads(process.communicate()[0]) for process in processes]
    slowest = {
        name: average([max(each) for each in zip(*(one[name] for one in found), strict=True)])
        for name in ("hop", "ring", "tree")
    }
    others = [average(one["heartbeats"]) for one in found]
    return slowest | {"heartbeats": others[0], "other heartbeats": max(others[1:])}


def memory(images: int) -> tuple[float, float, float]:
    """Returns a worker's megabytes and CPU seconds of the index, and CPU seconds of an order."""
    tf_import.import_tensorflow()
    from squeezenext.records.batches import order

    shards = math.ceil(images / IMAGES_A_SHARD)
    counts = np.full(shards, IMAGES_A_SHARD)
    counts[-1] = images - counts[:-1].sum()
    names = (Shard(Path(f"train-{i}"), int(n), 0, "") for i, n in enumerate(counts))
    walked = tuple(np.arange(n + 1) * BYTES_A_RECORD for n in counts)
    split = Split("train", tuple(names), walked=walked)
    started = time.process_time()
    index = reader.index(split)
    indexed = time.process_time()
    numbers = order(0, 1, images)
    ordered = time.process_time()
    # Two orders are held where an epoch ends within a batch.
    return (index.nbytes + 2 * numbers.nbytes) / 1e6, indexed - started, ordered - indexed


# The tables


def tested(found: dict[int, dict], size: int, network: Network, known: Constants) -> list[str]:
    """Returns the table of measurements beside the model, in milliseconds."""
    rows = ["| workers | ring | tree | heartbeats of the chief | of another |", "|---" * 5 + "|"]
    for workers, seconds in found.items():
        expected = {how: exchange(how, workers, size, network, known) for how in ("ring", "tree")}
        for name, chief in (("heartbeats", True), ("other heartbeats", False)):
            expected[name] = heartbeats(workers, chief, network, known)
        pairs = (f"{1e3 * seconds[k]:.0f} ({1e3 * v:.0f})" for k, v in expected.items())
        rows.append(f"| {workers} | " + " | ".join(pairs) + " |")
    return rows


def modelled(size: int, network: Network, known: Constants) -> list[str]:
    """Returns the table of the model for the numbers of workers in `MODELLED`."""
    head = "ring, ms | tree, ms | heartbeats of the chief, s | of another, s | requests/s"
    rows = [f"| workers | {head} |", "|---" * 6 + "|"]
    for workers in MODELLED:
        ring, tree = (exchange(how, workers, size, network, known) for how in ("ring", "tree"))
        chief, other = (heartbeats(workers, first, network, known) for first in (True, False))
        rate = requests(workers, True) / (HEARTBEAT_SECONDS + chief)
        rate += (workers - 1) * requests(workers, False) / (HEARTBEAT_SECONDS + other)
        numbers = f"{1e3 * ring:.0f} | {1e3 * tree:.0f} | {chief:.2f} | {other:.3f} | {rate:,.0f}"
        rows.append(f"| {workers} | {numbers} |")
    return rows


def started(network: Network, known: Constants) -> list[str]:
    """Returns the table of what each worker does and holds, however many there are."""
    head = "images | sizes of shards asked for, s | index and order, MB | index, order, CPU s"
    rows = [f"| data | {head} |", "|---" * 5 + "|"]
    for name, images in IMAGENET.items():
        asked = math.ceil(images / IMAGES_A_SHARD) * (2 * network.latency + known.request)
        megabytes, index, order = memory(images)
        numbers = f"{images:,} | {asked:.1f} | {megabytes:.0f} | {index:.2f}, {order:.2f}"
        rows.append(f"| {name} | {numbers} |")
    return rows


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    number, at = flags.DEFINE_float, {"flag_values": values}
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Network whose gradient it is.", **at)
    flags.DEFINE_list("workers", ["2", "4", "8"], "Numbers of workers that run here.", **at)
    flags.DEFINE_integer("repeats", 10, "Times that each thing is done.", 1, **at)
    number("latency_ms", 1.0, "Latency of one way between two of them.", 0.0, **at)
    number("mbit", 100.0, "Megabits a second that each may send.", 0.001, **at)
    number("loss", 0.0, "Share of packets that is lost.", 0.0, 0.5, **at)
    number("cluster_latency_ms", 0.05, "Latency of one way in the model's cluster.", 0.0, **at)
    number("cluster_mbit", 25_000.0, "Megabits a second of its machines.", 0.001, **at)
    return values


def _command(values: flags.FlagValues, _: list[str]) -> None:
    given = {name: values[name].value for name in values}
    if not set(given["workers"]) <= {"2", "4", "8"}:
        raise InputError(f"--workers {','.join(given['workers'])}: give some of 2,4,8.")
    if not all(map(shutil.which, ("unshare", "ip"))):
        raise InputError("unshare or ip is missing; Linux has them in util-linux and iproute2.")
    counts = sorted({2, *map(int, given["workers"])})
    layers = stats.layers(config_io.load(given["configuration"]))
    size = 4 * sum(layer.parameters for layer in layers)
    network = Network(given["latency_ms"] / 1e3, given["mbit"] * 1e6 / 8)
    lossy = dataclasses.replace(network, loss=given["loss"])
    found = {count: measure(count, size, network, given["repeats"]) for count in counts}
    lost = {c: measure(c, size, lossy, given["repeats"]) for c in counts if lossy.loss}
    known = fitted(found[2], lost.get(2), size, network, lossy.loss)
    cli.say(f"{size:,} bytes of gradients. {known}", "Milliseconds, in brackets the model's:")
    cli.say(*tested(found, size, network, known))
    if lost:
        cli.say(f"With {lossy.loss:.2%} of the packets lost:", *tested(lost, size, lossy, known))
    cluster = Network(given["cluster_latency_ms"] / 1e3, given["cluster_mbit"] * 1e6 / 8)
    cli.say("The model, for a cluster:", *modelled(size, cluster, known))
    cli.say("Each worker, however many there are:", *started(cluster, known))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns its exit code."""
    return cli.run(_command, _flags(), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
