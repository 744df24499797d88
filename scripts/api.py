"""Writes the pages of the public Python API, which are made of its docstrings.

    python scripts/api.py FOLDER      then open FOLDER/index.html, which also searches them
    python scripts/api.py > tests/public_api.txt      after the public API was changed on purpose

`PUBLIC` is all that keeps its name and its signature. pdoc comes with requirements-dev.txt.
"""

import ast
import contextlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

PUBLIC = {  # the names of each module, in the order of the page
    "squeezenext.adapt": ["adapt", "Adapted"],
    "squeezenext.doctor": ["examine", "Diagnosis"],
    "squeezenext.predictor": ["Predictor", "Prediction", "Answer", "View", "read", "softmax"],
    "squeezenext.predict": ["predict", "predict_to_folder"],
    "squeezenext.train": ["train", "Options"],
    "squeezenext.evaluate": ["evaluate", "Evaluation"],
    "squeezenext.export": ["export"],
    "squeezenext.compress": ["compress", "Method"],
    "squeezenext.convert.command": ["convert"],
    "squeezenext.convert.options": ["ConvertOptions"],
    "squeezenext.convert.verify": ["verify", "ShardFault"],
    "squeezenext.config": [
        "Config", "SqueezeNet", "Fire", "SqueezeNext", "Stage", "Images", "RandomCrop",
        "RandomResizedCrop", "HorizontalFlip", "ShiftScaleRotate", "ColorJitter", "RandomErasing",
        "Mixup", "CutMix", "Training", "Distillation", "CAFFE_SQUASH", "CAFFE_SHORT_SIDE",
        "CAFFE_RANDOM_RESIZED_CROP", "TORCHVISION", "IMAGENET_TRAIN",
    ],
    "squeezenext.config.io": ["configuration_names", "load", "override"],
    "squeezenext.stats": ["layers", "totals", "LayerStats"],
    "squeezenext.errors": ["InputError", "SomeInputsFailed", "NotFinite", "NotKept", "RunAgain"],
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Writes the pages, or prints the signatures; pdoc warns of what it cannot read."""
    if len(argv) < 2:
        print("\n".join(signatures()))
        return 0
    import pdoc

    pdoc.render.configure(docformat="google", footer_text="squeezenext")
    with contextlib.ExitStack() as stack:
        for name, names in PUBLIC.items():
            module = importlib.import_module(name)
            stack.enter_context(mock.patch.object(module, "__all__", names, create=True))
        pdoc.pdoc(*PUBLIC, output_directory=Path(argv[1]))
    return 0


def signatures() -> list[str]:
    """Returns a line for each public name, field and method, as their modules spell them."""
    lines = []
    for module, names in PUBLIC.items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            lines += [f"{module}.{line}" for line in _described(name, value)]
    return lines


def _described(name: str, value: object) -> Iterator[str]:
    if not callable(value):
        return iter([f"{name}: {type(value).__name__}"])
    source = inspect.getsource(inspect.unwrap(value))
    return _spelled(ast.parse(textwrap.dedent(source)).body[0], "")


def _spelled(node: ast.stmt, inside: str) -> Iterator[str]:
    match node:
        case ast.ClassDef():
            bases = ", ".join(map(ast.unparse, node.bases))
            yield f"{node.name}{bases and f'({bases})'}{_decorators(node)}"
            for inner in node.body:
                yield from _spelled(inner, f"{node.name}.")
        case ast.FunctionDef() if not node.name.startswith("_") or node.name == "__init__":
            returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            arguments = ast.unparse(node.args)
            yield f"{inside}{node.name}({arguments}){returned}{_decorators(node)}"
        case ast.AnnAssign() if not ast.unparse(node.target).startswith("_"):
            yield f"{inside}{ast.unparse(node)}"


def _decorators(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Returns those that change how a name is used: property, dataclass(kw_only=True)."""
    texts = map(ast.unparse, node.decorator_list)
    return "".join(f"  @{text}" for text in texts if not text.startswith("checked("))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
