"""Tests for `train/tensorboard.py` and the pictures that scripts draw."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from scripts import plot_history, show_augmentation
from squeezenext.config.images import HorizontalFlip, RandomCrop
from squeezenext.labels import Label
from squeezenext.metrics import Evaluation
from squeezenext.records import batches
from squeezenext.train import tensorboard
from tests import tiny

CLASSES = tuple(Label(f"n{i}", f"class {i}") for i in range(4))
RESULT = Evaluation(
    labels=np.array([0, 0, 0, 1, 1, 2]),
    loss=np.zeros(6, np.float32),
    top1=np.array([1, 1, 0, 0, 0, 1], np.float32),
    top5=np.ones(6, np.float32),
    predicted=np.array([0, 0, 1, 2, 2, 2]),
    probability=np.array([0.9, 0.8, 0.6, 0.7, 0.95, 0.5], np.float32),
)


class Recorder:
    """What `tensorboard.TensorBoard` is asked to show."""

    def __init__(self):
        self.shown = {}

    def curves(self, step, values):
        self.shown |= values

    def histogram(self, step, name, values):
        self.shown[name] = values

    def images(self, step, name, pixels):
        self.shown[name] = pixels


def test_each_class_has_its_share_of_hits():
    np.testing.assert_allclose(tensorboard.class_top1(RESULT, 4), [2 / 3, 0, 1, np.nan])


def test_the_confusion_is_darker_where_more_examples_went():
    picture = tensorboard.confusion(RESULT, 4)
    assert picture.shape == (512, 512, 3) and picture.dtype == np.uint8
    cells = picture[64::128, 64::128].astype(int).sum(-1)
    assert cells[0, 0] < cells[0, 1] < cells[0, 2] == 3 * 255
    assert cells[1, 2] == cells[2, 2] == 8 + 48 + 107
    assert (cells[3] == 3 * 255).all()  # no example of that class


def test_the_surest_mistakes_come_first():
    assert tensorboard.mistakes(RESULT).tolist() == [4, 3, 2]


def test_an_evaluation_is_shown_with_its_images(tmp_path):
    reader = tiny.reader(tmp_path, 6)
    board = Recorder()
    tensorboard.add_evaluation(board, 7, RESULT, reader, tiny.IMAGES, CLASSES)
    assert board.shown["validation_class_top1/n0"] == pytest.approx(2 / 3)
    assert "validation_class_top1/n3" not in board.shown
    worst = board.shown["validation/worst_mistakes"]
    assert worst.shape == (3, 32, 32, 3) and worst.dtype == np.uint8
    # Example 4 is of tiny's second class, hence green; its caption covers the lower part only.
    assert worst[0, :4].mean((0, 1)).argmax() == 1


def test_the_contact_sheet_shows_each_epoch_s_images(tmp_path):
    reader = tiny.reader(tmp_path, 6)
    steps = (RandomCrop(), HorizontalFlip(alternating=True))
    images = dataclasses.replace(tiny.AUGMENTED, augmentation=steps, progressive=(16, 32))
    training = dataclasses.replace(tiny.TRAINING, epochs=4.0)
    config = dataclasses.replace(tiny.SQUEEZENEXT, images=images, training=training)
    pixels = show_augmentation.sheet(config, reader, 3, 4, seed=1)
    assert pixels.shape == (3 * 32, 4 * 32, 3) and pixels.dtype == np.uint8
    cells = pixels.reshape(3, 32, 4, 32, 3)
    colours = cells.mean((1, 3)).argmax(-1)
    expected = batches.order(1, 0, 6)[:3] % 3
    np.testing.assert_array_equal(colours, np.tile(expected[:, np.newaxis], 4))
    assert not np.array_equal(cells[:, :, 2], cells[:, :, 3])


def test_the_contact_sheet_replaces_no_photograph(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    before = photo.read_bytes()
    assert show_augmentation.main(["show", "--data_dir=none", f"--output={photo}"]) == 2
    assert "is another program's; move it away" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_runs_are_drawn_side_by_side(tmp_path):
    text = "epoch,step,learning_rate,loss,top1,validation_loss,validation_top1\n"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = "1,10,0.1,2.0,0.3,,\n2,20,0.05,1.0,0.5,1.5,0.4\n"
        (tmp_path / name / "history.csv").write_text(text + rows)
    output = tmp_path / "plot.png"
    arguments = [str(tmp_path / "a"), str(tmp_path / "b" / "history.csv")]
    assert plot_history.main(["plot", *arguments, f"--output={output}"]) == 0
    with Image.open(output) as image:
        assert image.width > 1_000 and len(image.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [
        (None, "x.png", "cannot be read"),
        ("nothing", "x.png", "is not a history.csv"),
        ("epoch,loss\none,2\n", "x.png", "is not a history.csv"),
        ("epoch,loss\n1,2\n", "x.foo", "--output"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path, content, output, message, capsys):
    if content:
        (tmp_path / "history.csv").write_text(content)
    line = ["plot", str(tmp_path), f"--output={tmp_path / output}"]
    assert plot_history.main(line) == 2
    assert message in capsys.readouterr().err
