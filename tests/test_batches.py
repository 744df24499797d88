"""Tests for `squeezenext/records/batches.py` and `reader.py`."""

import dataclasses
import errno
import gc
import itertools
import os
import re
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf

from squeezenext import files, labels
from squeezenext.errors import InputError
from squeezenext.images import geometry
from squeezenext.records import bad_records, dataset, example, samples
from squeezenext.records import batches as records_batches
from squeezenext.records.batches import Share, faults_named
from squeezenext.train import devices
from tests import records, tiny


def numbers(examples, steps, micro_batch, shares, start=0, seed=0):
    """The record numbers of each step over all workers, [steps][workers * replicas * micro]."""
    streams = [
        records_batches.training_numbers(
            examples, seed=seed, start=start, micro_batch=micro_batch, share=s
        )
        for s in shares
    ]
    return [
        [n for share, stream in zip(shares, streams, strict=True)
         for part, _ in itertools.islice(stream, share.replicas) for n in part]
        for _ in range(steps)
    ]  # fmt: skip


def test_an_epoch_is_a_permutation_and_epochs_differ():
    first, second = records_batches.order(0, 0, 100), records_batches.order(0, 1, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second) != list(records_batches.order(1, 1, 100))
    np.testing.assert_array_equal(first, records_batches.order(0, 0, 100))


@pytest.mark.parametrize(
    "shares",
    [
        [Share(0, 1, 1)],
        [Share(0, 4, 4)],
        [Share(0, 2, 4), Share(2, 2, 4)],
        [Share(i, 1, 4) for i in range(4)],
    ],
)
def test_every_batch_is_the_same_however_it_is_shared_out(shares):
    total = shares[0].total
    assert numbers(30, 8, 12 // total, shares) == numbers(30, 8, 12, [Share()])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_example_once_an_epoch(workers):
    shares = [Share(i, 1, workers) for i in range(workers)]
    seen = sum(numbers(36, 36 // (2 * workers), 2, shares), [])
    assert sorted(seen) == list(range(36))


def test_starting_later_is_skipping():
    assert numbers(30, 6, 4, [Share()], start=16) == numbers(30, 10, 4, [Share()])[4:]


def test_batches_hold_what_the_order_says(tmp_path):
    reader = tiny.reader(tmp_path, 12)
    batches = records_batches.training(
        reader, tiny.IMAGES, tiny.CLASSES, seed=1, start=0, micro_batch=4, share=Share()
    )
    images, classes, _ = zip(*batches.take(3).as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(np.concatenate(classes), records_batches.order(1, 0, 12) % 3)
    for image, label in zip(np.concatenate(images), np.concatenate(classes), strict=True):
        assert image.dtype == np.uint8 and image.mean((0, 1)).argmax() == label


def test_workers_do_not_ask_each_other_whether_the_endless_input_goes_on(tmp_path):
    """They do so in a collective and two branches a micro-batch where they do not know."""
    options = {"seed": 3, "start": 0, "micro_batch": 4, "share": Share()}
    batches = records_batches.training(tiny.reader(tmp_path), tiny.IMAGES, tiny.CLASSES, **options)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    shared = devices.strategy(2).distribute_datasets_from_function(
        lambda _: batches.map(lambda *parts: parts)
    )
    assert not shared._enable_get_next_as_optional


def test_augmentation_follows_the_example_and_the_epoch_not_the_place(tmp_path):
    reader = tiny.reader(tmp_path, 12)

    def images(start, micro_batch, steps):
        batches = records_batches.training(
            reader, tiny.AUGMENTED, tiny.CLASSES, seed=1, start=start, micro_batch=micro_batch,
            share=Share(),
        )  # fmt: skip
        parts = zip(*batches.take(steps).as_numpy_iterator(), strict=True)
        return [np.concatenate(part) for part in parts]

    whole, labels, draws = images(0, 12, 2)
    for part, expected in zip(images(8, 4, 4), (whole, labels, draws), strict=True):
        np.testing.assert_array_equal(part, expected[8:])
    first = {
        int(n): image for n, image in zip(records_batches.order(1, 0, 12), whole[:12], strict=True)
    }
    second = {
        int(n): image for n, image in zip(records_batches.order(1, 1, 12), whole[12:], strict=True)
    }
    assert any(not np.array_equal(first[n], second[n]) for n in first)


def test_echo_gives_each_example_so_often_in_as_many_epochs():
    pairs = records_batches.training_numbers(
        10, seed=0, start=0, micro_batch=6, share=Share(), echo=3
    )
    parts = list(itertools.islice(pairs, 10))
    numbers, epochs = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert (numbers[::3] == numbers[1::3]).all() and (numbers[::3] == numbers[2::3]).all()
    for period in (0, 1):
        here = slice(30 * period, 30 * period + 30)
        seen = set(zip(numbers[here].tolist(), epochs[here].tolist(), strict=True))
        assert seen == set(itertools.product(range(10), range(3 * period, 3 * period + 3)))
    assert list(numbers[:30:3]) != list(numbers[30::3])


def test_echo_takes_other_crops_of_what_it_decodes_once(tmp_path):
    reader = tiny.reader(tmp_path, 12)
    options = {"seed": 1, "micro_batch": 6, "share": Share(), "echo": 3}
    first, labels, draws = next(
        records_batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, start=0, **options)
        .take(1).as_numpy_iterator()
    )  # fmt: skip
    assert list(labels) == [n % 3 for n in records_batches.order(1, 0, 12)[:2] for _ in range(3)]
    assert len({image.tobytes() for image in first}) > 2 and len(np.unique(draws)) > 12
    later = records_batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, start=6, **options)
    again = records_batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, start=0, **options).skip(
        1
    )
    for a, b in zip(next(iter(later)), next(iter(again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_records_without_their_size_are_read_the_same(tmp_path, monkeypatch):
    reader = tiny.reader(tmp_path, 6)
    options = {"seed": 1, "start": 0, "micro_batch": 6, "share": Share()}
    plain = next(iter(records_batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, **options)))
    schema = {
        name.replace("height", "absent"): kind for name, kind in records_batches.SCHEMA.items()
    }
    parse = records_batches.tf.io.parse_example

    def sizeless(payloads, _):
        found = parse(payloads, schema)
        return found | {"image/height": found["image/absent"]}

    monkeypatch.setattr(records_batches.tf.io, "parse_example", sizeless)
    again = next(iter(records_batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, **options)))
    np.testing.assert_array_equal(again[0], plain[0])


def test_evaluation_is_in_order_and_padded(tmp_path):
    reader = tiny.reader(tmp_path, 11)
    batches, steps = records_batches.evaluation(
        reader, tiny.IMAGES, 3, batch=2, share=Share(1, 1, 2)
    )
    seen = [n for _, _, batch in batches.as_numpy_iterator() for n in batch]
    assert steps == 3 and seen == [2, 3, 6, 7, 10, -1]


@pytest.mark.parametrize("resize_mode", ["squash", "short_side"])
def test_evaluation_sees_what_prediction_sees(tmp_path, resize_mode):
    images = dataclasses.replace(tiny.IMAGES, size=31, resize=37, resize_mode=resize_mode)
    reader = tiny.reader(tmp_path, 12)
    batches, _ = records_batches.evaluation(reader, images, 3, batch=12, share=Share())
    pixels, labels, _ = next(batches.as_numpy_iterator())
    for number in range(12):
        image, label = samples.read_examples(reader, number, 3)
        np.testing.assert_array_equal(pixels[number], geometry.centre_pixels(image, images))
        assert labels[number] == label


def test_a_label_outside_the_network_s_classes_stops(tmp_path):
    reader = tiny.reader(tmp_path, 6)
    batches, _ = records_batches.evaluation(reader, tiny.IMAGES, 2, batch=6, share=Share())
    with pytest.raises(Exception, match=r"label of a record is not in 1\.\.2"):
        next(iter(batches))


def test_records_are_read_side_by_side(tmp_path, monkeypatch):
    """A file server answers each read after milliseconds, but many at once."""
    reader = tiny.reader(tmp_path, 12)
    together, read = threading.Barrier(8, timeout=20), reader.read_one

    def slow(number):
        if number < 8:
            together.wait()  # passes when eight have come
        return read(number)

    monkeypatch.setattr(reader, "read_one", slow)
    payloads = reader.read(np.arange(8))
    assert list(payloads) == [read(number) for number in range(8)]


@pytest.mark.parametrize(
    ("image", "sides", "reason"),
    [
        (b"no image at all", (48, 48), "its image is text, no JPEG"),
        (tiny.jpeg(3, 1), (960, 48), r"its image is \(48, 48\), not \(960, 48\) pixels"),
        (tiny.jpeg(3, 1, kind="PNG"), (48, 48), "its image is no JPEG"),
        (tiny.jpeg(3, 1, kind="GIF"), (48, 48), "its image is no JPEG"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, image, sides, reason):
    """Its checksum holds: it was written so."""
    path = tiny.shard(tmp_path / "train-00000-of-00001", 4)
    bad = example.ImageExample(image, *sides, 1, "n1", "class 1", "bad.jpg")
    with open(path, "ab") as file:
        file.write(records.frame(records.encode_example(records.example_features(bad))))
    reader = tiny.reader(tmp_path)
    options = {"seed": 0, "start": 0, "micro_batch": 5, "share": Share()}
    with pytest.raises(InputError, match=rf"{path.name}: record 4 .*cannot be used: .*{reason}"):
        with faults_named(reader):
            next(iter(records_batches.training(reader, tiny.AUGMENTED, 3, **options)))


def test_an_image_that_evaluation_cannot_decode_is_named(tmp_path):
    whole = tiny.jpeg(3, 1)
    reason = r"its image cannot be decoded \(.*truncated"
    reader = tiny.reader(tmp_path, 2)
    bad = example.ImageExample(whole[: len(whole) // 2], 48, 48, 1, "n1", "class 1", "bad.jpg")
    with open(reader.split.shards[0].path, "ab") as file:
        file.write(records.frame(records.encode_example(records.example_features(bad))))
    reader = tiny.reader(tmp_path)
    batches, _ = records_batches.evaluation(reader, tiny.IMAGES, 3, batch=3, share=Share())
    with pytest.raises(InputError, match=rf"record 2 \(bad.jpg\) cannot be used: {reason}"):
        with faults_named(reader):
            next(iter(batches))


def test_a_record_that_is_no_example_is_named(tmp_path):
    """TensorFlow's error holds its bytes, which are no text."""
    path = tiny.shard(tmp_path / "train-00000-of-00001", 4)
    with open(path, "ab") as file:
        file.write(records.frame(bytes(range(128, 256))))
    reader = tiny.reader(tmp_path)
    options = {"seed": 0, "start": 0, "micro_batch": 5, "share": Share()}
    with pytest.raises(InputError, match=rf"{path.name}: record 4 cannot be used: .*parse"):
        with faults_named(reader):
            next(iter(records_batches.training(reader, tiny.AUGMENTED, 3, **options)))


@pytest.mark.parametrize("kind", ["damaged", "undecodable"])
def test_an_iterator_that_failed_is_freed_at_once(tmp_path, kind):
    """A collector that frees it later may run in the thread that still reads for it: a deadlock."""
    reader = tiny.reader(tmp_path, 12)
    if kind == "damaged":
        damage(reader, 3)
    else:
        bad = example.ImageExample(b"no image", 48, 48, 1, "n1", "class 1", "bad.jpg")
        framed = records.frame(records.encode_example(records.example_features(bad)))
        reader.split.shards[0].path.write_bytes(framed * 12)
        reader = tiny.reader(tmp_path)
    options = {"seed": 0, "start": 0, "micro_batch": 12, "share": Share()}
    iterator = iter(records_batches.training(reader, tiny.AUGMENTED, 3, **options))
    held = weakref.ref(iterator)
    gc.disable()
    try:
        with pytest.raises(InputError, match="record"), faults_named(reader):
            next(iterator)
        del iterator
        assert held() is None
    finally:
        gc.enable()


def test_a_damaged_record_is_named(tmp_path):
    reader = tiny.reader(tmp_path, 6)
    path = reader.split.shards[0].path
    content = bytearray(path.read_bytes())
    content[int(reader.index[3]["offset"]) + 40] ^= 1
    path.write_bytes(content)
    reader.read(np.array([2]))
    with pytest.raises(InputError, match=rf"{path.name}.*record 3"):
        reader.read(np.array([3]))


def damage(reader, number):
    path = reader.split.shards[0].path
    content = bytearray(path.read_bytes())
    content[int(reader.index[number]["offset"]) + 40] ^= 1
    path.write_bytes(content)


def leaving_out(folder, report):
    reader = tiny.reader(folder, 12)
    reader.skip_damaged(report, bad_records.listed(folder / bad_records.FILE))
    return reader


def test_the_next_whole_record_stands_in_for_a_damaged_one(tmp_path):
    """Whatever was read before, and after a restart; each is told and counted once."""
    whole = tiny.reader(tmp_path, 12).read(np.arange(12))
    told = []
    reader = leaving_out(tmp_path, told.append)
    for number in (3, 4, 11):
        damage(reader, number)
    expected = [whole[{3: 5, 4: 5, 11: 0}.get(number, number)] for number in range(12)]
    for _ in range(2):
        assert list(reader.read(np.arange(12))) == expected
    assert len(told) == len(reader.bad) == 3
    assert sum("record 3 fails its checksum" in line for line in told) == 1
    reader.bad.write(tmp_path / bad_records.FILE)
    again = leaving_out(tmp_path, told.append)
    assert again.bad.numbers == [3, 4, 11]
    assert list(again.read(np.array([4, 3]))) == [whole[5]] * 2


def test_what_cannot_be_decoded_is_named_by_its_own_number(tmp_path):
    """Not by that of the damaged record before it, for which it stands in."""
    path = tiny.shard(tmp_path / "train-00000-of-00001", 4)
    bad = example.ImageExample(b"no image at all", 48, 48, 1, "n1", "class 1", "bad.jpg")
    with open(path, "ab") as file:
        file.write(records.frame(records.encode_example(records.example_features(bad))))
    reader = tiny.reader(tmp_path)
    reader.skip_damaged(print)
    damage(reader, 3)
    reader.places(np.arange(4))
    assert re.search(
        r"train-00000-of-00001: record 4 .*cannot be used", str(records_batches.undecodable(reader))
    )


def test_a_mended_record_is_used_again(tmp_path):
    whole = list(tiny.reader(tmp_path, 12).read(np.arange(12)))
    reader = leaving_out(tmp_path, print)
    for number in (3, 7):
        damage(reader, number)
    reader.read(np.arange(12))
    reader.bad.write(tmp_path / bad_records.FILE)
    damage(reader, 3)  # the same bit again: mended
    again = leaving_out(tmp_path, print)
    assert list(again.read(np.array([3, 7]))) == [whole[3], whole[8]]
    assert again.bad.numbers == [7]
    again.bad.write(tmp_path / bad_records.FILE)
    assert bad_records.listed(tmp_path / bad_records.FILE) == [7]


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EACCES, errno.ENOTCONN])
def test_a_disk_that_is_gone_is_no_damaged_record(tmp_path, monkeypatch, code):
    reader = leaving_out(tmp_path, print)

    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "pread", fails)
    with pytest.raises(InputError, match=f"00000-of-00001 cannot be read .{os.strerror(code)}.; "):
        reader.read(np.array([1]))
    assert len(reader.bad) == 0 and reader.fault is not None


@pytest.mark.parametrize(("times", "left_out"), [(1, 0), (2, 1)])
def test_an_error_of_the_disk_must_come_twice(tmp_path, monkeypatch, times, left_out):
    reader, pread, errors = leaving_out(tmp_path, print), os.pread, [errno.EIO] * times
    wanted = tiny.reader(tmp_path, 12).read(np.array([1, 2]))

    def fails(*arguments):
        if errors:
            raise OSError(errors.pop(), "Input/output error")
        return pread(*arguments)

    monkeypatch.setattr(files, "pread", fails)
    assert reader.read(np.array([1])) == wanted[left_out] and len(reader.bad) == left_out


def test_the_training_batches_but_for_the_damaged_are_the_same(tmp_path):
    """Every other example comes as it would have, in its place, with its augmentation."""

    def batches(reader):
        found = records_batches.training(
            reader, tiny.AUGMENTED, tiny.CLASSES, seed=1, start=0, micro_batch=4, share=Share()
        )
        pixels = [element[0].numpy() for element in found.take(6)]
        return np.concatenate(pixels)

    before = batches(tiny.reader(tmp_path, 12))
    reader = leaving_out(tmp_path, lambda text: None)
    damage(reader, 7)
    after = batches(reader)
    numbers = np.concatenate([records_batches.order(1, epoch, 12) for epoch in (0, 1)])
    same = np.array([np.array_equal(*pair) for pair in zip(before, after, strict=True)])
    np.testing.assert_array_equal(same, numbers != 7)


def test_too_many_damaged_records_stop(tmp_path):
    reader = leaving_out(tmp_path, lambda text: None)
    for number in range(11):
        damage(reader, number)
    reader.read(np.array([10, 11]))
    with pytest.raises(InputError, match=r"More than 10 of 12 records are damaged.*\d fails"):
        reader.read(np.arange(12)[::-1])
    assert reader.fault is not None and len(reader.bad) == 10
    assert bad_records.BadRecords(1_281_167, print, print).limit == 1281


def test_tensorflow_s_threads_read_whole_records_without_python_s_lock(tmp_path, monkeypatch):
    """With it one process ends at some 15,000 images/s."""
    reader = tiny.reader(tmp_path, 12)
    payloads = reader.read(np.arange(12))
    monkeypatch.setattr(reader, "read", lambda numbers: pytest.fail("Python has read"))
    numbers = np.array([3, 11, 0, 3])
    read = records_batches.payloads(reader, tf.constant(reader.places(numbers)))
    assert list(read.numpy()) == list(payloads[numbers])


@pytest.mark.parametrize("kind", ["removed", "emptied", "cut", "a folder"])
def test_a_shard_that_tensorflow_cannot_read_is_named(tmp_path, kind):
    reader = tiny.reader(tmp_path, 12)
    path = reader.split.shards[0].path
    content = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "removed":
        path.write_bytes(content[: len(content) // 2 if kind == "cut" else 0])
    options = {"seed": 0, "start": 0, "micro_batch": 12, "share": Share()}
    with pytest.raises(InputError, match=path.name), faults_named(reader):
        next(iter(records_batches.training(reader, tiny.AUGMENTED, 3, **options)))


def test_a_missing_shard_is_never_left_out(tmp_path):
    reader = leaving_out(tmp_path, print)
    reader.split.shards[0].path.unlink()
    with pytest.raises(InputError, match="cannot be read .No such file"):
        reader.read(np.array([1]))


def test_what_find_refuses(tmp_path):
    shard = str(tiny.shard(tmp_path / "shard", 3))
    with pytest.raises(InputError, match="No data are given; give --data_dir records"):
        dataset.find_dataset(None, None, None)
    with pytest.raises(InputError, match="--data_dir"):
        dataset.find_dataset(tmp_path, shard, None)
    found = dataset.find_dataset(None, shard, None)
    assert found.splits["train"].examples == 3 and found.classes is None
    with pytest.raises(InputError, match="has no validation split"):
        dataset.check_split(found, "validation")


def test_classes_must_be_the_model_s(tmp_path):
    known = (labels.Label("a", "a"), labels.Label("b", "b"))
    found = dataset.Dataset({}, known, tmp_path)
    dataset.check_classes(found, known, tmp_path)
    with pytest.raises(InputError, match="has 2 classes, the model in .* has 1;"):
        dataset.check_classes(found, known[:1], tmp_path)
    with pytest.raises(InputError, match="Class 0 is a in .* and b in"):
        dataset.check_classes(dataclasses.replace(found), known[::-1], tmp_path)
