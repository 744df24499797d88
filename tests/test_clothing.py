"""The clothing photographs: all converted, and each trained on exactly once an epoch."""

import itertools
import tarfile

import numpy as np
import pytest

from squeezenext.convert import verify
from squeezenext.records import batches as records_batches
from squeezenext.records import example
from squeezenext.records.reader import Reader
from tests.converting import convert


@pytest.fixture(scope="module")
def manifest(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("clothing")
    with tarfile.open(shared / "clothing.tar") as archive:
        for member in archive:
            if member.isfile():
                path = root / "photos" / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    options = {"layout": "folder", "workers": 2, "show_progress": False}
    return convert(root / "photos", root / "out", **options)


def test_none_is_rejected(manifest):
    assert manifest.raw["rejected"] == manifest.raw["repairs"] == []
    assert len(manifest.classes) == 10
    assert sum(split.examples for split in manifest.splits.values()) == 3_781
    assert set(manifest.splits) == {"train", "validation", "test"}
    assert verify.verify(manifest.directory, workers=2) == []


def names(manifest):
    """Returns image/filename of every training record, in the records' order."""
    reader = Reader(manifest.splits["train"])
    payloads = reader.read(np.arange(manifest.splits["train"].examples))
    return [example.decode_example(payload)["image/filename"][0] for payload in payloads]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_example_comes_once_an_epoch(manifest, workers):
    """By name, over the workers together, in each of two epochs; batches straddle their border."""
    everything = names(manifest)
    examples, micro_batch = len(everything), 7
    assert len(set(everything)) == examples
    seen: dict[int, list[bytes]] = {0: [], 1: []}
    for worker in range(workers):
        share = records_batches.Share(first=worker, replicas=1, total=workers)
        batches = records_batches.training_numbers(
            examples, seed=3, start=0, micro_batch=micro_batch, share=share
        )
        # One step more than two epochs take, for the last may be cut by the third.
        steps = 2 * examples // (micro_batch * workers) + 1
        for numbers, epochs in itertools.islice(batches, steps):
            for number, epoch in zip(numbers.tolist(), epochs.tolist(), strict=True):
                seen.setdefault(epoch, []).append(everything[number])
    for epoch in (0, 1):
        assert len(seen[epoch]) == examples and set(seen[epoch]) == set(everything)
    assert len(seen.get(2, [])) < micro_batch * workers
