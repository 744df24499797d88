"""Measures the published models for `squeezenext.stats --all`: bytes and accuracy by format.

    python scripts/benchmarks/zoo.py --data_dir RECORDS [--networks NAME,NAME] [--max_bytes 420000]

For each model: LiteRT in float32 and int8, and with --max_bytes a `.sqz`, made without images. The
ranges of int8 come from the training images; records without any give the images that are scored.
Prints a JSON document a line, [bytes, top-1, top-5] by format; `squeezenext/config/reported.py`
keeps them.
"""

import json
import sys
import tempfile
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from squeezenext import cli, compress, evaluate, export
from squeezenext.compress.method import Method
from squeezenext.config.zoo import PUBLISHED

RUN = ("squeezenet_v1_0", "squeezenet_v1_1", "squeezenet_v1_1_caffe", "squeezenet_v1_1_torchvision")


def measured(name: str, data_dir: str, folder: Path, max_bytes: int) -> dict[str, object]:
    """Returns, by format, bytes and the percentages right at first and among five."""
    float32, int8, sqz = (folder / f"{name}{end}" for end in (".tflite", "-int8.tflite", ".sqz"))
    export.export(name, "litert", float32)
    export.export(name, "litert", int8, precision="int8", data_dir=data_dir)
    if max_bytes:
        compress.compress(name, sqz, Method(max_bytes=max_bytes))
    found: dict[str, object] = {"model": name}
    for path in (float32, int8, sqz)[: 2 + bool(max_bytes)]:
        scores = evaluate.evaluate(model_dir=path, data_dir=data_dir)
        right = [round(100 * float(column.mean()), 2) for column in (scores.top1, scores.top5)]
        found[path.name.removeprefix(name)] = [path.stat().st_size, *right]
    return found


def main(argv=None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("data_dir", None, "Records of ImageNet.", flag_values=values)
    flags.DEFINE_integer("max_bytes", 0, "Budget of the .sqz; 0: none.", 0, flag_values=values)
    flags.DEFINE_list("networks", list(RUN), f"Some of {', '.join(PUBLISHED)}.", flag_values=values)

    def command(values, _):
        with tempfile.TemporaryDirectory() as folder:
            for name in values["networks"].value:
                data_dir, most = values["data_dir"].value, values["max_bytes"].value
                row = measured(name, data_dir, Path(folder), most)
                print(json.dumps(row), flush=True)

    return cli.run(command, values, __doc__, argv, required=("data_dir",))


if __name__ == "__main__":
    sys.exit(main())
