"""Tests for `records/bad_records.py`: counting and listing, without TensorFlow."""

import pytest

from squeezenext.errors import InputError
from squeezenext.records.bad_records import BadRecords, listed
from squeezenext.records.example import RecordError


def worker(damaged, examples=30):
    """Returns what a worker knows, which has read all of its copy of the data, once."""

    def read(number):
        if number in damaged:
            raise RecordError(f"shard: record {number} fails its checksum")

    bad = BadRecords(examples, read, lambda text: None)
    for number in bad.look_at(range(examples)):
        assert number not in damaged
    return bad


def test_what_two_workers_meet_is_one_list(tmp_path):
    """Each record once, however many met it; each leaves out only what it cannot read itself."""
    chief, other = worker({3, 5}), worker({5, 8})
    met = chief.numbers + other.numbers
    for _ in range(2):
        chief.merge(met)
        other.merge(met)
    assert len(chief) == len(other) == 3
    assert 3 in chief and 8 not in chief and 8 in other
    chief.write(tmp_path / "list.csv")
    rows = (tmp_path / "list.csv").read_text().splitlines()
    assert rows[1:3] == [f"{n},shard: record {n} fails its checksum" for n in (3, 5)]
    assert rows[3].startswith("8,") and "not to another worker" in rows[3]
    assert listed(tmp_path / "list.csv") == [3, 5, 8]


def test_a_record_that_another_has_met_first_is_counted_once():
    damaged = {3}
    bad = worker(damaged)
    bad.merge([3, 9])
    damaged.add(9)
    assert bad.look_at([9]) == [] and 9 in bad and len(bad) == 2


def test_the_limit_is_of_all_workers_together():
    one, two = worker(range(6)), worker(range(5, 11))
    met = one.numbers + two.numbers
    for bad in (one, two):
        with pytest.raises(InputError, match="More than 10 of 30 records are damaged"):
            bad.merge(met)
    enough = worker(range(6))
    enough.merge(range(10))
    assert len(enough) == enough.limit == 10


def test_nothing_to_list_leaves_no_file(tmp_path):
    path = tmp_path / "list.csv"
    worker({1}).write(path)
    assert listed(path) == [1]
    worker({}).write(path)
    assert not path.exists() and listed(path) == []


def test_numbers_of_other_data_are_forgotten(tmp_path):
    bad = worker({})
    assert bad.look_at([29, 30, 1 << 70]) == [29]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"number,fault\nx,y\n",
        b"number,fault\n-1,y\n",
        b"number,fault\n1\n",
        b"number,fault\n1,y,z\n",
        b"something,else\n",
        b"number,fault\n1,\xff\n",
        b"number,fault\n1,a\0b\n" + b"2," + b"x" * 200_000,
        "number,fault\n\u00b2,y\n".encode(),
    ],
)
def test_a_damaged_list_is_named(tmp_path, content):
    path = tmp_path / "bad_records.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad_records.csv is no list of bad records .*remove it"):
        listed(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="bad_records.csv is no regular file"):
        listed(path)
