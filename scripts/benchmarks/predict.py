r"""Measures prediction: a cold process, and a folder of photographs beside PyTorch.

    python scripts/benchmarks/predict.py PHOTOS [--int8 FILE.tflite] \
        [--torch_python VENV/bin/python]

Contestants take turns in each round. Cold: whole processes predict one photograph; the ratio is to
`python -c "import tensorflow"` in the same round. Folder: PHOTOS are repeated up to --images. Our
time is that of the whole command with its start. PyTorch and torchvision take one photograph after
the other (decode, resize, crop, normalise, SqueezeNet 1.0) with as many threads as there are cores,
without their start; the weights are random, which costs the same. Results are medians, ratios are
medians of the rounds' ratios.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.errors import InputError
from squeezenext.model import loading
from squeezenext.predict import sources

MODEL = "squeezenet_v1_0"
TEN_LINES = """
import sys, numpy as np
from PIL import Image
from ai_edge_litert.interpreter import Interpreter
net = Interpreter(model_path=sys.argv[2])
net.allocate_tensors()
image = Image.open(sys.argv[1]).convert("RGB").resize((227, 227))
pixels = np.asarray(image, np.float32)[None, ..., ::-1] - np.float32([104, 117, 123])
net.set_tensor(net.get_input_details()[0]["index"], pixels)
net.invoke()
print(net.get_tensor(net.get_output_details()[0]["index"])[0].argsort()[::-1][:5])
"""
PYTORCH = """
import sys, time, torch, torchvision
from pathlib import Path
from PIL import Image
from torchvision import transforms as t
torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
net = torchvision.models.squeezenet1_0(weights=None).eval()
change = t.Compose([t.Resize(256), t.CenterCrop(224), t.ToTensor(),
                    t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
paths = sorted(Path(sys.argv[1]).iterdir())
with torch.inference_mode():
    for path in paths[:10]:
        net(change(Image.open(path).convert("RGB"))[None])
    started = time.perf_counter()
    for path in paths:
        net(change(Image.open(path).convert("RGB"))[None]).softmax(1).topk(5)
print(time.perf_counter() - started)
"""


def run(command: Sequence[object]) -> tuple[float, str]:
    """Returns (seconds, standard output) of a process."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return time.perf_counter() - started, done.stdout


def cold(photo: str, rounds: int) -> dict[str, list[float]]:
    """Returns seconds a round of each process."""
    litert = loading.load_runnable(MODEL).file
    commands = {
        "import tensorflow": ["-c", "import tensorflow"],
        "predict.py": ["predict.py", photo, "--model_dir", MODEL],
        "ten lines of LiteRT and Pillow": ["-c", TEN_LINES, photo, litert],
    }
    for command in commands.values():  # files into memory
        run([sys.executable, *command])
    rows: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            rows[name].append(run([sys.executable, *command])[0])
    return rows


def folder(
    photos: Path, count: int, rounds: int, int8: str | None, torch_python: str | None
) -> dict[str, list[float]]:
    """Returns images a second and round of each contestant."""
    ours = {"predict.py, float32": MODEL} | ({"predict.py, int8": int8} if int8 else {})
    rows: dict[str, list[float]] = {name: [] for name in ours}
    if torch_python:
        rows["PyTorch and torchvision, one by one"] = []
    for _ in range(rounds):
        for name, model in ours.items():
            line = ["predict.py", photos, "--model_dir", model, "--format", "json"]
            seconds, out = run([sys.executable, *line])
            errors = [row for row in map(json.loads, out.splitlines()) if row["error"]]
            if errors or len(out.splitlines()) != count:
                raise InputError(f"{name} did not answer every photograph: {errors[:1]}")
            rows[name].append(count / seconds)
        if torch_python:
            _, out = run([torch_python, "-c", PYTORCH, photos])
            rows["PyTorch and torchvision, one by one"].append(count / float(out))
    return rows


def table(rows: dict[str, list[float]], base: str, unit: str) -> str:
    """Returns a Markdown table of medians and of medians of ratios to `base`."""
    lines = [f"| what | {unit} | ratio |", "|---|---|---|"]
    for name, values in rows.items():
        pairs = zip(values, rows.get(base, [float("nan")] * len(values)), strict=True)
        ratio = statistics.median(value / other for value, other in pairs)
        lines.append(f"| {name} | {statistics.median(values):.3g} | {ratio:.3f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_integer("rounds", 5, "Number of rounds.", 1, **own)
    flags.DEFINE_integer("images", 1000, "Number of images in the folder.", 1, **own)
    flags.DEFINE_string("int8", None, "An int8 file of squeezenext.export.", **own)
    flags.DEFINE_string("torch_python", None, "Python with torch and torchvision.", **own)

    def command(values, paths):
        photos = [Path(path).resolve() for path in sources.expand(paths)]
        if not photos:
            raise InputError("Name a folder of photographs.")
        rounds = values["rounds"].value
        print(table(cold(str(photos[0]), rounds), "import tensorflow", "seconds"), "\n")
        count = values["images"].value
        with tempfile.TemporaryDirectory() as scratch:
            for number, photo in enumerate(itertools.islice(itertools.cycle(photos), count)):
                (Path(scratch) / f"{number:05d}{photo.suffix}").symlink_to(photo)
            others = (values["int8"].value, values["torch_python"].value)
            rows = folder(Path(scratch), count, rounds, *others)
        print(table(rows, "PyTorch and torchvision, one by one", "images/s"))
        for missing, told in zip(others, ("--int8", "--torch_python"), strict=True):
            if not missing:
                print(f"Left out, since {told} is not given: its contestant.")

    return command_line.run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
