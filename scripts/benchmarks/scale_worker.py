"""One process of scale.py's network: a worker that exchanges vectors and heartbeats, or the server.

    unshare -rn python scale_worker.py '{"node": 0, "workers": 2, "mtu": 9000, "port": 3, ...}'

Node `workers` is the file server. A process has a network namespace of its own, whose one device
hands its packets to scale.py: it sends the device's descriptor through the socket `port`.
"""

import concurrent.futures
import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext.train.cluster import Cluster, Heartbeat
from squeezenext.train.watchdog import Watchdog

PORT, TIMEOUT = 5000, 60.0  # seconds
MARGIN = 0.3  # seconds for all to hear when they begin
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
# Round trips of a heartbeat on NFS 4: open, read, close; open, write, set the size, close.
READ_TRIPS, WRITE_TRIPS = 3, 4


def address(node: int) -> str:
    """Returns the address of a node; its last byte is the node's number and one."""
    return f"10.0.0.{node + 1}"


def device(node: int, mtu: int):
    """Returns the file of this namespace's network device, which holds whole IP packets."""
    tun = open("/dev/net/tun", "r+b", buffering=0)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"net", IFF_TUN | IFF_NO_PI))
    for command in (
        f"ip addr add {address(node)}/24 dev net",
        f"ip link set net mtu {mtu} up",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)
    return tun


def connect(node: int) -> socket.socket:
    """Returns a connection to a node, which may not listen yet."""
    while True:
        try:
            return prompt(socket.create_connection((address(node), PORT)))
        except ConnectionRefusedError:
            time.sleep(0.01)


def accept(listening: socket.socket) -> socket.socket:
    """Returns the next connection that another node makes."""
    return prompt(listening.accept()[0])


def prompt(connection: socket.socket) -> socket.socket:
    """Makes a connection send small messages at once, and give up after `TIMEOUT`."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(TIMEOUT)
    return connection


def receive(connection: socket.socket, into: memoryview) -> None:
    """Fills a buffer; raises ConnectionError if the other end closes before."""
    while into:
        if not (count := connection.recv_into(into)):
            raise ConnectionError("a worker has ended early")
        into = into[count:]


def mesh(node: int, workers: int) -> dict[int, socket.socket]:
    """Connects every pair of workers."""
    with socket.create_server((address(node), PORT)) as listening:
        peers = {}
        for other in range(node):
            peers[other] = connect(other)
            peers[other].sendall(bytes([node]))
        while len(peers) < workers - 1:
            found = accept(listening)
            peers[found.recv(1)[0]] = found
    return peers


class Exchange:
    """All-reduce (a sum) over TCP in the two ways of NCCL, without its pipelining."""

    def __init__(self, node: int, workers: int):
        self.node, self.workers = node, workers
        self.peers = mesh(node, workers)
        self.sender = concurrent.futures.ThreadPoolExecutor(1)

    def ring(self, vector: np.ndarray) -> None:
        """Sums in 2 (workers - 1) hops of a part each: reduce-scatter, then all-gather."""
        parts, count = np.array_split(vector, self.workers), self.workers
        right, left = self.peers[(self.node + 1) % count], self.peers[(self.node - 1) % count]
        for hop in range(2 * (count - 1)):
            sent = self.sender.submit(right.sendall, parts[(self.node - hop) % count])
            part = parts[(self.node - hop - 1) % count]
            found = np.empty_like(part)
            receive(left, memoryview(found).cast("B"))
            sent.result()
            part[:] = part + found if hop < count - 1 else found

    def tree(self, vector: np.ndarray) -> None:
        """Sums along a binomial tree to worker 0, and back: 2 log2(workers) hops of the whole."""
        levels = [1 << level for level in range((self.workers - 1).bit_length())]
        found = np.empty_like(vector)
        for step, back in [(step, False) for step in levels] + [(s, True) for s in levels[::-1]]:
            sends = self.node % (2 * step) == (0 if back else step)
            other = self.node + step if self.node % (2 * step) == 0 else self.node - step
            if self.node % step or other >= self.workers:
                continue
            if sends:
                self.peers[other].sendall(vector)
            else:
                into = vector if back else found
                receive(self.peers[other], memoryview(into).cast("B"))
                if not back:
                    vector += found

    def agree(self, number: float) -> float:
        """Returns worker 0's number to all; they have one machine's clock."""
        numbers = np.zeros(self.workers)
        numbers[self.node] = number
        self.ring(numbers)
        return float(numbers[0])

    def seconds(self, how: str, values: int, repeats: int) -> list[float]:
        """Times all-reduces of so many float32 values, and checks the sums."""
        found = []
        for _ in range(repeats):
            vector = np.full(values, self.node + 1, np.float32)
            begin = self.agree(time.monotonic() + MARGIN)
            time.sleep(max(0.0, begin - time.monotonic()))
            started = time.monotonic()
            getattr(self, how)(vector)
            found.append(time.monotonic() - started)
            if not (vector == self.workers * (self.workers + 1) / 2).all():
                raise ValueError(f"{how}: the sum is wrong")
        return found


def heartbeats(node: int, workers: int, folder: Path, repeats: int) -> list[float]:
    """Times rounds of the product's watchdog in training, its files on the server."""
    server = connect(workers)

    def ask(trips: int) -> None:
        for _ in range(trips):
            server.sendall(b"?")
            receive(server, memoryview(bytearray(1)))

    read, write = Heartbeat.read, Heartbeat.write
    Heartbeat.read = lambda path: (ask(READ_TRIPS), read(path))[1]
    Heartbeat.write = lambda own, path: (ask(WRITE_TRIPS), write(own, path))[1]
    names = Cluster(tuple(f"{address(i)}:{PORT}" for i in range(workers)), node)
    watchdog = Watchdog(folder, names, 600.0, print, print)
    watchdog.connected()
    found = []
    for _ in range(repeats):
        started = time.monotonic()
        watchdog.send()
        watchdog.check()
        found.append(time.monotonic() - started)
    return found


def serve(node: int) -> None:
    """Answers each byte with one, for ever."""

    def answer(connection: socket.socket) -> None:
        while asked := connection.recv(1):
            connection.sendall(asked)

    with socket.create_server((address(node), PORT)) as listening:
        while True:
            threading.Thread(target=answer, args=(accept(listening),), daemon=True).start()


def main() -> None:
    """Does what the argument says; a worker prints its seconds as JSON."""
    task = json.loads(sys.argv[1])
    node, workers, repeats = task["node"], task["workers"], task["repeats"]
    tun = device(node, task["mtu"])
    port = socket.socket(fileno=task["port"])
    socket.send_fds(port, [b"up"], [tun.fileno()])
    port.recv(1)  # all are up
    if node == workers:
        threading.Thread(target=serve, args=(node,), daemon=True).start()
        port.recv(1)  # scale.py has closed it
        return
    exchange, values = Exchange(node, workers), task["values"]
    found = {
        "hop": exchange.seconds("ring", workers, 5 * repeats),
        "ring": exchange.seconds("ring", values, repeats),
        "tree": exchange.seconds("tree", values, repeats),
        "heartbeats": heartbeats(node, workers, Path(task["folder"]), 5 * repeats),
    }
    exchange.agree(0.0)  # nobody leaves before the others are done
    print(json.dumps(found))


if __name__ == "__main__":
    main()
