"""Input faults of one of several workers: a damaged record, a disk that hangs."""

import random
import shutil
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import train_disk as fault_train_disk
from scripts.faults.train_bench import Bench, Different, last_words
from scripts.faults.train_workers import Group

STALL_SECONDS = 120.0  # more than the duration of a first call, which builds the graph


def damaged(bench: Bench, group: Group, chance: random.Random) -> int:
    """Flips a bit in each worker's own copy of the records: all end with 2 and name the record."""
    for culprit in range(group.count):
        copy, arguments = bench.empty("copy"), group.arguments(bench.empty("damaged"))
        shutil.copy(bench.folder / "records", copy)
        fault_train_disk.flip(copy, chance)
        others = [*arguments, "--training_file_pattern", str(copy)]
        processes = [
            bench.start(others if index == culprit else arguments, config=config)
            for index, config in enumerate(group.configs(group.count))
        ]
        for index, process in enumerate(processes):
            process.join()
            told = last_words(process)
            named = "copy" in told.splitlines()[-1]
            if process.exitcode != 2 or not named:
                raise Different(
                    f"damaged record of worker {culprit}: worker {index} ended with "
                    f"{process.exitcode}: {told}"
                )
    return group.count


def stuck(bench: Bench, group: Group) -> int:
    """Lets each worker's input hang, the last one's in evaluation: all leave with 75."""
    for culprit in range(group.count):
        model_dir = bench.empty("stuck")
        arguments = group.arguments(model_dir)
        split = "validation" if culprit == group.count - 1 else "train"
        processes = [
            bench.start(arguments, hang, split if index == culprit else "", config=config)
            for index, config in enumerate(group.configs(group.count))
        ]
        for index, process in enumerate(processes):
            process.join()
            told = last_words(process)
            named = f"orker {culprit} (127" in told.splitlines()[-1]
            if process.exitcode != 75 or not named or "stalled" not in told:
                raise Different(
                    f"stuck worker {culprit}, {split}: worker {index} ended with "
                    f"{process.exitcode}: {told}"
                )
        group.resumed(arguments, f"stuck worker {culprit}")
    return group.count


def hang(split: str) -> None:
    """Lets the input of a split stop after a few groups of records; shortens the time limit."""
    from squeezenext.records.reader import Reader
    from squeezenext.train import watchdog

    watchdog.STALL_SECONDS = STALL_SECONDS
    places, calls = Reader.places, 0

    def slow(reader, numbers):
        nonlocal calls
        calls += reader.split.name == split
        if calls > 3:
            threading.Event().wait()
        return places(reader, numbers)

    Reader.places = slow
