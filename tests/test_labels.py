"""Tests for labels.py: lists of classes as people have them."""

import json

import pytest

from squeezenext import labels
from squeezenext.errors import InputError
from squeezenext.labels import Label

CAT, DOG = Label("cat", "cat"), Label("dog", "dog")
TENCH = Label("n01440764", "tench, Tinca tinca"), Label("n01443537", "goldfish")
OURS = [{"index": i, "synset": x.synset, "text": x.text} for i, x in enumerate((CAT, DOG))]


def read(folder, content, name="classes.json"):
    """The classes in a file with a text, or with a document as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, "utf-8", newline="")
    return labels.read_list(folder / name)


@pytest.mark.parametrize(
    "content",
    [
        OURS,
        OURS[::-1],
        ["cat", "dog"],
        {"cat": 0, "dog": 1},
        {"dog": 1, "cat": 0},
        {"1": "dog", "0": "cat"},
        {"id2label": {"0": "cat", "1": "dog"}, "architectures": ["Squeeze"]},
        {"names": ["cat", "dog"]},
        {"names": {"0": "cat", "1": "dog"}},
        [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}],
        [["cat", "cat"], ["dog", "dog"]],
    ],
)
def test_json_as_people_have_it(tmp_path, content):
    assert read(tmp_path, content) == (CAT, DOG)
    assert read(tmp_path, content, "classes.txt") == (CAT, DOG)


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "cat\r\ndog",
        "\ufeffcat\ndog\n\n",
        "0 cat\n1 dog",
        "1: dog\n0: cat",
        "0,cat\n1,dog",
        "dog,1\ncat,0",
        "cat\t0\ndog\t1",
        "cat: 0\ndog: 1",
    ],
)
def test_text_as_people_have_it(tmp_path, text):
    assert read(tmp_path, text, "classes.txt") == (CAT, DOG)


def test_imagenet_s_own_lists(tmp_path):
    rows = {str(i): [x.synset, x.text] for i, x in enumerate(TENCH)}
    assert read(tmp_path, rows) == TENCH
    lines = "".join(f"{x.synset} {x.text}\n" for x in TENCH)
    assert read(tmp_path, lines, "synset_words.txt") == TENCH
    assert read(tmp_path, lines.replace(" ", "\t", 1), "words.txt") == TENCH


def test_numbers_in_names_stay_there(tmp_path):
    names = ["101 dalmatians", "3 musketeers", "7"]
    assert [x.text for x in read(tmp_path, "\n".join(names), "classes.txt")] == names
    assert [x.text for x in read(tmp_path, {"0": 0, "1": 1})] == ["0", "1"]  # digits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cat": 0, "dog": 0}, "entry 1 and entry 2 are both class 0"),
        ('{"cat": 0, "cat": 1}', "entry 1 and entry 2 are both 'cat'"),
        ({"cat": 0, "dog": 2}, "it has no class 1; classes are numbered from 0"),
        ({"cat": 1, "dog": 2}, "it has no class 0"),
        ({"cat": 0, "dog": -1}, "it has no class 1"),
        ({"cat": 0.0, "dog": 1}, "entry 1 is 'cat' without a number"),
        ({"cat": True}, "entry 1 has the number True"),
        (["cat", "cat"], "entry 1 and entry 2 are both 'cat'"),
        (["cat", "do\ng"], r"the name in entry 2 has a line end or another .*: 'do\\ng'"),
        (["cat", "do\x1b[2Jg"], r"the name in entry 2 has a line end or another control character"),
        ("cat\t120\ndog\t7\n", "it has no class 0"),
        ("# classes\ncat\n", "line 1 is '# classes', as in YAML; write names alone"),
        ("names:\n- cat\n", "line 2 is '- cat', as in YAML"),
        (["cat", ""], "entry 2 has no name"),
        (["cat", 5], "entry 2 has no name"),
        ([OURS[0], OURS[0]], "entry 1 and entry 2 are both class 0"),
        ([OURS[0], {**OURS[1], "text": "a\u2028b"}], "the name in entry 2 has a line end"),
        ("cat\n\ndog\n", "line 2 has no name"),
        ("cat\ndog\ncat\n", "line 1 and line 3 are both 'cat'"),
        ("1 cat\n2 dog\n", "it has no class 0"),
        ("", "line 1 has no name"),
        ("[" * 100_000, "is no list of classes"),
        (5, "it is neither a list nor an object"),
    ],
)
def test_what_could_be_wrong_names_is_refused_with_its_place(tmp_path, content, message):
    name = "classes.txt" if isinstance(content, str) and content[:1] != "{" else "classes.json"
    with pytest.raises(InputError, match=message) as refused:
        read(tmp_path, content, name)
    assert 'Usual forms: ["cat", "dog"]' in str(refused.value)


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("käse\n".encode("utf-16"))
    with pytest.raises(InputError, match="is no text in UTF-8"):
        labels.read_list(tmp_path / "a.txt")


def test_a_model_s_own_labels_are_ordered_by_their_index(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(OURS[::-1]))
    assert labels.read(path) == (CAT, DOG)
    forged = {"index": 0, "synset": "a", "text": "hat\n   99.99%  cat\x1b[32m"}
    text_index = {"index": "0", "synset": "a", "text": "a"}
    for rows in ([OURS[0], OURS[0]], [OURS[1]], [text_index], [forged]):
        path.write_text(json.dumps(rows))
        with pytest.raises(InputError, match="is not a list of labels"):
            labels.read(path)
