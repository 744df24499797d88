"""Runs one network in one runtime; started by scripts/benchmarks/inference.py.

    python inference_worker.py RUNTIME FILE THREADS

RUNTIME is litert, onnx, tensorflow, torch or ncnn. This file imports only that runtime and numpy,
so it also works in a separate environment. It prints "ready VERSION" and then reads commands, one a
line: "answer IN OUT" writes the logits of the images in the file IN, [N, size, size, 3] uint8, to
OUT; "time IN N" prints the milliseconds of N single images as a JSON list. The measured time is the
same for all runtimes: from an array in the runtime's own layout to the logits as an array.
"""

import json
import os
import sys
import time

import numpy as np


class Litert:
    def __init__(self, path, threads):
        import importlib.metadata

        from ai_edge_litert.interpreter import Interpreter

        self.version = importlib.metadata.version("ai-edge-litert")
        self._interpreter = Interpreter(path, num_threads=threads)
        self._interpreter.allocate_tensors()
        (self._given,) = self._interpreter.get_input_details()
        (self._found,) = self._interpreter.get_output_details()

    def prepared(self, image):
        return image[np.newaxis].astype(self._given["dtype"])

    def run(self, images):
        self._interpreter.set_tensor(self._given["index"], images)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._found["index"])[0]


class Onnx:
    def __init__(self, path, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.version = onnxruntime.__version__
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def prepared(self, image):
        return np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis], np.float32)

    def run(self, images):
        return self._session.run(["logits"], {"images": images})[0][0]


class Tensorflow:
    def __init__(self, path, threads):
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.version = tf.__version__
        whole = keras.models.load_model(path, compile=False)
        network = keras.Model(whole.input, whole.get_layer("probabilities").input)
        self._run = tf.function(lambda images: network(images, training=False))
        self._tensor = tf.constant

    def prepared(self, image):
        return image[np.newaxis].astype(np.float32)

    def run(self, images):
        return self._run(self._tensor(images)).numpy()[0]


class Torch:
    """Interprets the nodes; channels_last is the layout in which PyTorch is fastest here."""

    def __init__(self, path, threads):
        import torch

        self._torch, self.version = torch, torch.__version__
        torch.set_num_threads(threads)
        self._nodes, weights = json.load(open(f"{path}/nodes.json")), np.load(f"{path}/weights.npz")
        self._weights = {name: torch.from_numpy(weights[name]) for name in weights.files}
        for name, value in self._weights.items():
            if value.ndim == 4:
                self._weights[name] = value.to(memory_format=torch.channels_last)

    def prepared(self, image):
        return np.ascontiguousarray(image[np.newaxis], np.float32)

    def run(self, images):
        with self._torch.inference_mode():
            # A view: what is channels last in memory already.
            values = {self._nodes[0]["name"]: self._torch.from_numpy(images).permute(0, 3, 1, 2)}
            for node in self._nodes[1:]:
                x = getattr(self, node["op"])(node, *(values[name] for name in node["inputs"]))
                functional = self._torch.nn.functional
                change = {"relu": functional.relu_, "elu": functional.elu_}.get(node["activation"])
                values[node["name"]] = change(x) if change else x
            return x.numpy()[0]

    def pad(self, node, x, value=0.0):
        (top, bottom), (left, right) = node["padding"]
        if not any((top, bottom, left, right)):
            return x
        return self._torch.nn.functional.pad(x, (left, right, top, bottom), value=value)

    def conv(self, node, x):
        (top, bottom), (left, right) = node["padding"]
        even = top == bottom and left == right
        x = x if even else self.pad(node, x)
        kernel, bias = (self._weights[f"{node['name']}/{part}"] for part in ("kernel", "bias"))
        pads, groups = (top, left) if even else 0, node["groups"]
        run = self._torch.nn.functional.conv2d
        return run(x, kernel, bias, node["strides"], pads, groups=groups)

    def max_pool(self, node, x):
        x = self.pad(node, x, -1e30)
        return self._torch.nn.functional.max_pool2d(x, node["kernel"], node["strides"])

    def concat(self, node, *inputs):
        return self._torch.cat(inputs, 1)

    def add(self, node, x, y):
        return x + y

    def global_pool(self, node, x):
        return x.mean((2, 3))

    def dense(self, node, x):
        x = x @ self._weights[f"{node['name']}/kernel"]
        return x + self._weights[f"{node['name']}/bias"] if node["bias"] else x


class Ncnn:
    def __init__(self, path, threads):
        import importlib.metadata

        import ncnn

        self.version = importlib.metadata.version("ncnn")
        self._matrix, self._network = ncnn.Mat, ncnn.Net()
        self._network.opt.num_threads = threads
        self._network.load_param(f"{path}/model.param")
        self._network.load_model(f"{path}/model.bin")

    def prepared(self, image):
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)

    def run(self, images):
        with self._network.create_extractor() as extractor:
            extractor.input("images", self._matrix(images))  # a view; `images` outlives it
            return np.array(extractor.extract("logits")[1])


RUNTIMES = {
    "litert": Litert,
    "onnx": Onnx,
    "tensorflow": Tensorflow,
    "torch": Torch,
    "ncnn": Ncnn,
}


def answer(runtime, source: str, target: str) -> None:
    images = np.load(source, mmap_mode="r")
    np.save(target, np.stack([runtime.run(runtime.prepared(image)) for image in images]))


def times(runtime, source: str, count: int) -> list[float]:
    prepared, found = runtime.prepared(np.load(source, mmap_mode="r")[0]), []
    for _ in range(count):
        started = time.perf_counter()
        runtime.run(prepared)
        found.append(1e3 * (time.perf_counter() - started))
    return found


def main() -> None:
    name, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    runtime = RUNTIMES[name](path, threads)
    print(f"ready {runtime.version}", flush=True)
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\t")
        if command == "answer":
            answer(runtime, *words)
            print("done", flush=True)
        else:
            print(json.dumps(times(runtime, words[0], int(words[1]))), flush=True)


if __name__ == "__main__":
    main()
