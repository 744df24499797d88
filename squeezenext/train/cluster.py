"""The workers that train together, from TF_CONFIG or Slurm's environment, and their heartbeats.

The first worker, or the one under the key "chief", is the chief, which writes the files.
TensorFlow's own SlurmClusterResolver reads fewer lists (one range a name, none before its end) and
takes seconds to import.
"""

import dataclasses
import functools
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from squeezenext import files
from squeezenext.errors import InputError
from squeezenext.train.options import Cluster as Choice

_EXPECTED = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
_FIRST_PORT, _PORTS = 12000, 20000  # Slurm names no ports; each job has some of these
HEARTBEAT_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Workers that train together."""

    workers: tuple[str, ...]  # host:port of each, the chief first
    index: int  # index of this process

    def name(self, index: int) -> str:
        """Names a worker in messages."""
        return f"worker {index} ({self.workers[index]})"


@dataclasses.dataclass
class Heartbeat:
    """A worker's sign of life, the content of its file; see watchdog.py."""

    count: int = 0  # heartbeats so far
    # Name of this start. In a container a restarted process has its old number.
    start: str = dataclasses.field(default_factory=functools.partial(secrets.token_hex, 8))
    calls: int = 0  # finished calls, saves and evaluation steps
    batches: int = 0  # micro-batches that the worker's input has delivered
    devices: str = ""  # its devices, such as "8 GPUs"; "": not known yet
    state: str = "running"  # or "done" or "left"
    reason: str = ""  # why it has left, a sentence without its full stop
    code: int = 0  # its exit code then

    def write(self, path: Path) -> None:
        """Overwrites the file in place; its fixed length takes no room on a full disk.

        Raises:
          OSError: it cannot be written.
        """
        text = json.dumps(dataclasses.asdict(self)).ljust(HEARTBEAT_BYTES)
        # Closed each time: a network file system shows a file's content when it is closed.
        descriptor = files.open_own(path)
        try:
            os.write(descriptor, text.encode())
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    @classmethod
    def read(cls, path: Path) -> "Heartbeat | None":
        """Reads a file; None if it is missing, half-written or something else."""
        try:
            found = files.read_document(path)
            kinds = {name: type(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return None
        expected = {field.name: field.type for field in dataclasses.fields(cls)}
        return cls(**found) if kinds == expected else None


def find_cluster(choice: Choice, environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the cluster, or None if this process trains alone.

    Raises:
      InputError: the environment does not describe a cluster.
    """
    if choice == "slurm":
        found = _slurm(environment)
    elif choice == "auto" and environment.get("TF_CONFIG"):
        found = _tf_config(environment["TF_CONFIG"])
    else:
        return None
    return found if len(found.workers) > 1 else None


def _tf_config(text: str) -> Cluster:
    try:
        document = json.loads(text)
        named = document["cluster"]
        chiefs = [str(address) for address in named.get("chief", [])]
        workers = [str(address) for address in named.get("worker", [])]
        kind, index = document["task"]["type"], int(document["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"TF_CONFIG is not {_EXPECTED}: {error!r}.") from error
    known = {"chief": chiefs, "worker": workers}
    if len(chiefs) > 1:
        raise InputError(f"TF_CONFIG names {len(chiefs)} chiefs; there can be one.")
    if kind not in known or not 0 <= index < len(known[kind]):
        raise InputError(
            f"TF_CONFIG: task {kind} {index} is none of the {len(chiefs) + len(workers)} workers."
        )
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


def _slurm(environment: Mapping[str, str]) -> Cluster:
    """Reads the variables that srun sets for each task; tasks fill one node after the other.

    https://slurm.schedmd.com/srun.html, "Output environment variables"
    """

    def text(*names: str) -> str:
        for name in names:
            if environment.get(name):
                return environment[name]
        raise InputError(f"--cluster slurm: {names[0]} is not set; start the workers with srun.")

    def number(*names: str) -> int:
        if not (found := text(*names)).isdigit():
            raise InputError(
                f"--cluster slurm: {names[0]} is {found!r}; start the workers with srun."
            )
        return int(found)

    if "cyclic" in environment.get("SLURM_DISTRIBUTION", ""):
        raise InputError("--cluster slurm: start srun with --distribution=block.")
    tasks, index = number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), number("SLURM_PROCID")
    hosts = hosts_of(text("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    shares = _shares(text("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"))
    # Jobs and steps that run at once on a node have numbers close to each other.
    step = environment.get("SLURM_STEP_ID", "")
    turn = number("SLURM_JOB_ID") + 1000 * (int(step) if step.isdigit() else 0)
    port = _FIRST_PORT + max(shares, default=1) * turn % _PORTS
    workers = [
        f"{host}:{port + task}"
        for host, share in zip(hosts, shares, strict=False)
        for task in range(share)
    ]
    if len(hosts) != len(shares) or len(workers) != tasks or index >= tasks:
        raise InputError(
            f"--cluster slurm: {tasks} tasks do not fit {len(hosts)} nodes with {shares} tasks."
        )
    return Cluster(tuple(workers), index)


def hosts_of(text: str) -> list[str]:
    """Returns the hosts of a Slurm list, e.g. "gpu[01-03,7],login" -> gpu01, gpu02, gpu03, ...

    Raises:
      InputError: the text is not such a list.
    """
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        pieces = re.split(r"\[([^\]]*)\]", part)  # outside, inside, outside, ...
        names = [""]
        for index, piece in enumerate(pieces):
            ends = _range(piece, text) if index % 2 else [piece]
            names = [name + end for name in names for end in ends]
        hosts += names
    return hosts


def _range(text: str, whole: str) -> list[str]:
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if not match or int(match[2] or match[1]) - int(match[1]) > 100_000:
            raise InputError(f"--cluster slurm: {whole!r} is no list of nodes.")
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
        found += [str(number).zfill(len(match[1])) for number in numbers]
    return found


def _shares(text: str) -> list[int]:
    """Returns the tasks of each node, e.g. "2(x3),1" -> 2, 2, 2, 1."""
    shares: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if not match:
            raise InputError(f"--cluster slurm: {text!r} is no list of tasks a node.")
        shares += [int(match[1])] * min(int(match[2] or 1), 100_000)
    return shares
