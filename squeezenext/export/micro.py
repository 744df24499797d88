"""A folder for microcontrollers: a network of whole numbers with its runtime, all in C99.

The sources are copied from `c/`; the network, its labels and test images become C arrays. The
folder builds with any C compiler, as an Arduino library, an ESP-IDF component and with the Pico
SDK. docs/micro.md describes the runtime and its memory.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from squeezenext.cli import say
from squeezenext.errors import InputError, NotKept
from squeezenext.export import checking
from squeezenext.export.format import FolderKind, Format, Request, Run
from squeezenext.model import card
from squeezenext.network.model import Model
from squeezenext.predict.answers import softmax
from squeezenext.sqz import file as sqz

SOURCES = Path(__file__).with_name("c")
TESTS = 2  # number of test images; each takes some 11 bytes of C for a pixel
_MARK = "/* Made by squeezenext.export --format micro. */\n"
_PLACES = {  # where each file of `c/` goes
    "squeezenext.h": "src", "squeezenext.c": "src", "pixels.h": "src", "pixels.c": "src",
    "main.c": "test", "micro.ino": "examples/micro", "Makefile": ".", "CMakeLists.txt": ".",
    "library.properties": ".", "idf_component.yml": ".", "README.md": ".",
}  # fmt: skip
_WRITTEN = ("src/model.h", "src/model.c", "test/tests.h", "test/tests.c")
_FILES = (*_WRITTEN, card.FILE, *(f"{place}/{name}" for name, place in _PLACES.items()))


def write(model: Model, folder: Path, images: list[np.ndarray]) -> None:
    """Writes the folder of a model that was read from a file of whole numbers.

    Args:
      model: the model.
      folder: an empty folder.
      images: [size, size, 3] uint8, RGB, with which the folder's test compares the logits.

    Raises:
      InputError: the model is not in whole numbers.
    """
    network = model.integer
    if network is None:
        raise InputError(
            "--format micro takes a .sqz file of whole numbers; make one with `python -m "
            "squeezenext.compress --integer`, and give it as --model_dir."
        )
    content = sqz.encode_whole(model, network).data
    arena, classes = sqz.arena(content), len(model.labels)
    for name, place in _PLACES.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCES / name, folder / place / name)
    readme = (folder / "README.md").read_text("utf-8")
    words = {"MODEL": " ".join(model.name.split()), "CLASSES": classes, "FILE": f"{len(content):,}"}
    words |= {"ARENA": f"{arena:,}", "SIZE": model.config.images.size, "TESTS": len(images)}
    for word, value in words.items():
        readme = readme.replace(f"@{word}@", str(value))
    (folder / "README.md").write_text(readme, "utf-8", newline="\n")
    logits = [network.run(image) for image in images]
    for name, text in zip(_WRITTEN, _texts(model, content, arena, images, logits), strict=True):
        (folder / name).write_text(_MARK + text, "ascii", newline="\n")


def _texts(model: Model, content: bytes, arena: int, images, logits) -> list[str]:
    """Returns the texts of the written files."""
    settings, classes, size = model.config.images, len(model.labels), model.config.images.size
    numbers = {"ARENA": arena, "SIZE": size, "RESIZE": settings.resize, "CLASSES": classes}
    numbers |= {"TEMPERATURE": f"{float(model.temperature)}f"}
    header = ["#ifndef MODEL_H\n#define MODEL_H\n#include <stdint.h>\n#ifdef __cplusplus"]
    header += ['extern "C" {\n#endif']
    header += [f"#define MODEL_{name} {value}" for name, value in numbers.items()]
    header += [f"extern const uint8_t model_file[{len(content)}];"]
    header += [f"extern const char *const model_labels[{classes}];"]
    header += ["#ifdef __cplusplus\n}\n#endif\n#endif\n"]
    labels = "".join(f'    "{_text(label.text)}",\n' for label in model.labels)
    source = f'#include "model.h"\n\nconst uint8_t model_file[{len(content)}] = {{\n'
    source += (
        f"{_rows(content)}}};\n\nconst char *const model_labels[{classes}] = {{\n{labels}}};\n"
    )
    pixels = f"const uint8_t test_pixels[{len(images)}][{size * size * 3}]"
    wanted = f"const int32_t test_logits[{len(images)}][{classes}]"
    declared = f"#include <stdint.h>\n#define TEST_IMAGES {len(images)}\n"
    declared += f"extern {pixels};\nextern {wanted};\n"
    filled = "".join(f"{{\n{_rows(image.tobytes())}}},\n" for image in images)
    given = "".join(f"{{\n{_rows(row.tolist())}}},\n" for row in logits)
    tests = f'#include "tests.h"\n\n{pixels} = {{\n{filled}}};\n\n{wanted} = {{\n{given}}};\n'
    return ["\n".join(header), source, declared, tests]


def _rows(numbers: Iterable[int]) -> str:
    """Returns numbers as lines of a C array."""
    texts = [f"{number}," for number in numbers]
    return "".join("".join(texts[i : i + 20]) + "\n" for i in range(0, len(texts), 20))


def _text(label: str) -> str:
    """Returns the inside of a C string: UTF-8, of which unusual bytes are in octal."""
    plain = {ord(x) for x in " ,.-'()/&+"}
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 or byte in plain else f"\\{byte:03o}"
        for byte in label.encode("utf-8")
    )


def run_test(folder: Path) -> None:
    """Compiles a folder's test and runs it; without a C compiler it prints that it did not.

    Raises:
      NotKept: it cannot be compiled, or gives other logits than `IntegerNetwork`.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or not shutil.which(compiler[0]):
        say("There is no C compiler, so the exported C code was not run; `make check` will run it.")
        return
    sources = [
        str(path) for part in ("src", "test") for path in sorted((folder / part).glob("*.c"))
    ]
    with tempfile.TemporaryDirectory() as made:
        program = Path(made) / "micro"
        includes = ["-std=c99", f"-I{folder / 'src'}", f"-I{folder / 'test'}", "-o", str(program)]
        for call in ([*compiler, *includes, *sources], [str(program)]):
            done = subprocess.run(call, capture_output=True, text=True, errors="replace")
            if done.returncode:
                told = " ".join((done.stderr or done.stdout).split())[:300]
                raise NotKept(
                    f"{call[0]} failed on the exported C code, which was not kept: {told}"
                )


def is_ours(folder: Path) -> bool:
    """Returns whether a folder was written here."""
    path = folder / _WRITTEN[0]
    return path.is_file() and path.read_bytes()[: len(_MARK)] == _MARK.encode()


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    path.mkdir()
    model = request.model
    write(model, path, list(checking.probes(model, request.images))[:TESTS])
    run_test(path)
    network, temperature = model.integer, np.float32(model.temperature)

    def run(image: np.ndarray) -> np.ndarray:
        return softmax(network.run(image) * network.logit_scale / temperature)

    return [("full_integer", run)]


FORMAT = Format(
    name="micro",
    precisions=("int8",),
    write=_write,
    folder=FolderKind(tuple(str(Path(x)) for x in _FILES), is_ours),
)
