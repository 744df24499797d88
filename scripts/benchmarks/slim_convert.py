"""Converts ImageNet by the predecessor's method, for comparison: `slim_convert.py TAR OUTPUT`.

This re-implements process_downloaded_imagenet.sh and build_imagenet_data.py of TF-slim: it extracts
all archives, then two threads decode every image through TensorFlow to learn its size and write it
as a tf.train.Example. It is faster than the original, which scans the outer archive once for each
class; it checks nothing and does not resume. Prints its seconds.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import tensorflow as tf

SHARDS, THREADS = 8, 2


def extract(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["tar", "xf", archive, "-C", folder], check=True)
    for inner in sorted(folder.glob("*.tar")):
        (folder / inner.stem).mkdir()
        subprocess.run(["tar", "xf", inner, "-C", folder / inner.stem], check=True)
        inner.unlink()


def example(path: Path, label: int) -> bytes:
    data = path.read_bytes()
    height, width, _ = tf.io.decode_jpeg(data, channels=3).shape
    texts = {"colorspace": b"RGB", "format": b"JPEG", "filename": path.name.encode()}
    texts |= {"encoded": data, "class/synset": path.parent.name.encode()}
    numbers = {"height": height, "width": width, "channels": 3, "class/label": label}
    result = tf.train.Example()
    for key, value in texts.items():
        result.features.feature[f"image/{key}"].bytes_list.value.append(value)
    for key, value in numbers.items():
        result.features.feature[f"image/{key}"].int64_list.value.append(value)
    return result.SerializeToString()


def write(files: list[tuple[Path, int]], output: Path, shards: range) -> None:
    for shard in shards:
        path = output / f"train-{shard:05d}-of-{SHARDS:05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for file, label in files[shard::SHARDS]:
                writer.write(example(file, label))
        with path.open("rb") as file:
            os.fsync(file.fileno())


def main(archive: Path, output: Path) -> None:
    extract(archive, output / "raw")
    folders = sorted((output / "raw").iterdir())
    files = [(path, n) for n, folder in enumerate(folders, 1) for path in sorted(folder.iterdir())]
    threads = [
        threading.Thread(target=write, args=(files, output, range(first, SHARDS, THREADS)))
        for first in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    start = time.monotonic()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(time.monotonic() - start)
