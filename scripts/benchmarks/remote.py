"""Measures training from files and from an S3 server here whose answers are delayed by 50 ms.

    python scripts/benchmarks/remote.py --data_dir RECORDS [--rounds 3] [--check]

It needs `pip install s3fs "moto[server]"`. In each round SqueezeNet 1.1 trains two epochs, with
batches of 32 crops of 128 pixels: on the records as files, then on their copy in the server, with
an empty cache. A proxy holds each request back for 50 ms. The result is images a second of each
epoch, without the first step, and the seconds to that step. --check instead kills a deterministic
run on the server half-way, goes on with it, compares its weights with those of a run on files, and
then damages a shard in the server.
"""

import asyncio
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.errors import InputError
from squeezenext.records import dataset

DELAY = 0.05  # seconds
BUCKET = "s3://bench"


async def _forward(reader, writer, delay: float) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 18):
            await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
    writer.close()


def _proxy(target: int, ports: list[int], ready: threading.Event) -> None:
    """Passes requests on to a port, each `DELAY` seconds late."""

    async def handle(reader, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_forward(reader, ours, DELAY), _forward(theirs, writer, 0))

    async def serve():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def server(directory: Path) -> Iterator[None]:
    """Runs the server with a copy of a data directory, for all processes that are started."""
    import fsspec

    given = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    os.environ |= dict.fromkeys(given, "bench") | {"AWS_DEFAULT_REGION": "us-east-1"}
    line = [sys.executable, "-m", "moto.server", "-p0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stderr if "Running on" in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        ports, ready = [], threading.Event()
        target = int(said.rpartition(":")[2])
        threading.Thread(target=_proxy, args=(target, ports, ready), daemon=True).start()
        ready.wait()
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{ports[0]}"
        try:
            system = fsspec.filesystem("s3")
            system.mkdir("bench")
            for path in sorted(directory.iterdir()):
                if not path.name.startswith("."):
                    system.put_file(str(path), f"bench/{path.name}")
            yield
        finally:
            process.terminate()


def train(place: str, model_dir: Path, *more: str, epochs: int = 2) -> subprocess.Popen:
    """Starts a training."""
    line = [
        *(sys.executable, "-m", "squeezenext.train", "--configuration=squeezenet_v1_1"),
        *(f"--data_dir={place}", f"--model_dir={model_dir}", f"--set=training.epochs={epochs}"),
        *("--set=images.size=128", "--set=training.batch_size=32", *more),
    ]
    variables = {"XDG_CACHE_HOME": str(model_dir.parent / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        line,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen, expected: int = 0) -> str:
    """Returns what a training printed when it has ended."""
    said, _ = process.communicate()
    if process.returncode != expected:
        raise InputError(f"The training ended with {process.returncode}: {said[-2000:]}")
    return said


def measured(place: str, folder: Path) -> list[float]:
    """Returns images a second of both epochs, and the seconds of the first step."""
    said = finished(train(place, folder / "model", "--evaluate_every_epochs=0"))
    with (folder / "model" / "history.csv").open() as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return [*rates, float(re.search(r"First step: ([\d.]+) s", said)[1])]


def measure(directory: Path, rounds: int) -> None:
    """Prints the rates of each round, and their medians."""
    rows: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        for place in (str(directory), BUCKET):
            with tempfile.TemporaryDirectory() as folder:
                rows.setdefault(place, []).append(measured(place, Path(folder)))
            shown = ", ".join(f"{value:.1f}" for value in rows[place][-1])
            command_line.say(f"round {number + 1}, {place}: {shown}")
    for place, found in rows.items():
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        words = "epoch 1 {:.1f} images/s, epoch 2 {:.1f}, first step {:.1f} s".format(*medians)
        command_line.say(f"{place}: {words}")
    ours, theirs = rows.values()
    for epoch in (0, 1):
        ratio = statistics.median(b[epoch] / a[epoch] for a, b in zip(ours, theirs, strict=True))
        command_line.say(f"epoch {epoch + 1}: the store's speed is {ratio:.2f} of that of files")


def check(directory: Path) -> None:
    """Prints whether a killed run is resumed exactly, and the message for a damaged shard."""
    import fsspec

    def sha256(model: Path) -> str:
        return json.loads((model / "final.json").read_text())["weights_sha256"]

    with tempfile.TemporaryDirectory() as name:
        folder, same = Path(name), ("--deterministic", "--seed=1")
        finished(train(str(directory), folder / "ours", *same, epochs=8))
        killed = train(BUCKET, folder / "theirs", *same, epochs=8)
        while not any((folder / "theirs" / "checkpoints").glob("step-*/META.json")):
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        said = finished(train(BUCKET, folder / "theirs", *same, epochs=8))
        command_line.say(next((x for x in said.splitlines() if "Resuming" in x), said))
        same_weights = sha256(folder / "ours") == sha256(folder / "theirs")
        command_line.say(f"killed, resumed, the weights of a run on files: {same_weights}")
        shutil.rmtree(folder / "cache")
        shard = dataset.load_manifest(directory).splits["train"].shards[-1].path.name
        system = fsspec.filesystem("s3")
        data = bytearray(system.cat_file(f"bench/{shard}"))
        data[len(data) // 2] ^= 1
        system.pipe_file(f"bench/{shard}", bytes(data))
        said = finished(train(BUCKET, folder / "damaged"), expected=2)
        command_line.say(f"exit code 2: {said.strip().splitlines()[-1]}")


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Records with a manifest.", **own)
    flags.DEFINE_integer("rounds", 3, "Number of rounds.", 1, **own)
    flags.DEFINE_bool("check", False, "Kill and resume, and damage a shard, instead.", **own)

    def command(values, _):
        directory = Path(values["data_dir"].value)
        with server(directory):
            if values["check"].value:
                check(directory)
            else:
                measure(directory, values["rounds"].value)

    return command_line.run(command, values, __doc__, argv, required=("data_dir",))


if __name__ == "__main__":
    sys.exit(main())
