"""Shows one photograph to a model in every runtime, and counts where they agree with predict.py.

    python scripts/benchmarks/runtimes.py PHOTO --model_dir NAME --data_dir RECORDS

The model is exported to each format and precision, as by `squeezenext.export`. ONNX files are also
run by OpenVINO (in float32, not bfloat16) and by OpenCV's dnn. The table has the probability of the
class that predict.py puts first, of the second and of the third; and on how many images of the
validation split (--images, at most) a runtime puts the same class first as predict.py does with the
model, and with the LiteRT file of the same precision. The ranges of int8 come from the training
split.
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.errors import InputError
from squeezenext.export import checking, command
from squeezenext.export.format import Request, Run
from squeezenext.images import geometry
from squeezenext.model import loading
from squeezenext.predict import predictor
from squeezenext.predict.predictor import Predictor
from squeezenext.records import samples

KINDS = {  # --format, or another runtime of its files: name and package
    "litert": ("LiteRT", "ai-edge-litert"),
    "onnx": ("ONNX Runtime", "onnxruntime"),
    "openvino": ("OpenVINO", "openvino"),
    "opencv": ("OpenCV dnn", "opencv-python-headless"),
    "ncnn": ("ncnn", "ncnn"),
    "saved_model": ("TensorFlow", "tensorflow"),
    "keras": ("Keras", "keras"),
}
Row = tuple[str, str, Run]


def openvino(path: Path) -> Run:
    from openvino import Core

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where the processor has it
    compiled = Core().compile_model(str(path), "CPU", exact)
    return lambda image: compiled(nchw(image))["probabilities"][0]


def opencv(path: Path) -> Run:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))

    def run(image: np.ndarray) -> np.ndarray:
        network.setInput(nchw(image))
        return network.forward("probabilities").ravel()

    return run


def nchw(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis], np.float32)


OTHERS: dict[str, Callable[[Path], Run]] = {"openvino": openvino, "opencv": opencv}


def rows(model, name: str, folder: Path, images: Sequence[np.ndarray]) -> Iterator[Row]:
    """Yields (runtime, precision, run) of each file."""
    for kind in ("litert", "onnx", "ncnn", "saved_model", "keras"):
        form = command.FORMATS[kind]
        for precision in form.precisions:
            path = folder / f"{kind}-{precision}{form.ending}"
            [(_, run)] = form.write(Request(model, name, precision, images), path)
            yield kind, precision, run
            for other, load in OTHERS.items() if kind == "onnx" else ():
                yield other, precision, load(path)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", "squeezenet_v1_1", "Model.", **at)
    flags.DEFINE_string("data_dir", None, "Records of its classes.", **at)
    flags.DEFINE_integer("images", 100, "Images of the validation split.", 1, **at)

    def main_command(values, words):
        if len(words) != 1:
            raise InputError("Name a photograph.")
        name, data = values["model_dir"].value, values["data_dir"].value
        model = loading.load(name)
        like = (model.config.images, model.labels)
        tests = samples.read(data, ("validation",), values["images"].value, *like)
        tests = [pixels for pixels, _ in tests]
        # predict.py itself, on a frame that is its own crop.
        photo = geometry.centre_pixels(predictor.read(words[0]), model.config.images)
        best = Predictor(name).predict(words[0], 3)
        reference = checking.reference(model)
        firsts = [reference(image).argmax() for image in tests]
        command_line.say(
            f"| runtime | precision | {' | '.join(row.label for row in best)} | as the model "
            "| as LiteRT |",
            "|---|---|---:|---:|---:|---:|---:|",
            f"| predict.py | | {' | '.join(f'{row.probability:.4f}' for row in best)} | | |",
        )
        litert: dict[str, list] = {}
        with tempfile.TemporaryDirectory() as folder:
            calibration = checking.images(model, data, checking.CALIBRATION_IMAGES)
            for kind, precision, run in rows(model, name, Path(folder), calibration):
                shares = run(photo)
                figures = " | ".join(f"{shares[row.index]:.4f}" for row in best)
                found = [run(image).argmax() for image in tests]
                litert.setdefault(precision, found)  # whose rows come first
                same = [np.sum(np.equal(found, x)) for x in (firsts, litert[precision])]
                title, package = KINDS[kind]
                cells = [f"{title} {importlib.metadata.version(package)}", precision, figures]
                cells += [f"{count} of {len(tests)}" for count in same]
                command_line.say(f"| {' | '.join(cells)} |")

    return command_line.run(
        main_command, values, __doc__, argv, required=("data_dir",), positional=True
    )


if __name__ == "__main__":
    sys.exit(main())
