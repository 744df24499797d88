"""Runs one network in one runtime, for benchmark_inference.py, which starts it.

    python inference_worker.py RUNTIME FILE THREADS

RUNTIME is litert, onnx, tensorflow, torch or ncnn; this file imports that runtime and numpy alone,
so that it also works in an environment of its own. It prints "ready VERSION", then, for each
number N that it reads, the milliseconds of N single images as a JSON list.
"""

import json
import os
import sys
import time

import numpy as np


def litert(path, threads):
    import importlib.metadata

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
    return interpreter.invoke, importlib.metadata.version("ai-edge-litert")


def onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    shape = [1, *session.get_inputs()[0].shape[1:]]
    images = {"images": np.zeros(shape, np.float32)}
    return lambda: session.run(["logits"], images), onnxruntime.__version__


def tensorflow(path, threads):
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    network = keras.models.load_model(path, compile=False)
    run = tf.function(lambda images: network(images, training=False))
    images = tf.zeros((1, *network.input_shape[1:]))
    return lambda: run(images).numpy(), tf.__version__


def torch(path, threads):
    """Interprets the nodes; channels_last is the layout in which PyTorch is fastest here."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    nodes, weights = json.load(open(f"{path}/nodes.json")), np.load(f"{path}/weights.npz")
    w = {name: torch.from_numpy(weights[name]) for name in weights.files}
    for name, value in w.items():
        w[name] = value.to(memory_format=torch.channels_last) if value.ndim == 4 else value

    def padded(node, x, value=0.0):
        (top, bottom), (left, right) = node["padding"]
        return (
            F.pad(x, (left, right, top, bottom), value=value)
            if any((top, bottom, left, right))
            else x
        )

    def conv(node, x):
        (top, bottom), (left, right) = node["padding"]
        even = top == bottom and left == right
        x = x if even else padded(node, x)
        name, pads = node["name"], (top, left) if even else 0
        kernel, bias = w[f"{name}/kernel"], w[f"{name}/bias"]
        return F.conv2d(x, kernel, bias, node["strides"], pads, groups=node["groups"])

    ops = {
        "conv": conv,
        "max_pool": lambda n, x: F.max_pool2d(padded(n, x, -1e30), n["kernel"], n["strides"]),
        "pad": padded,
        "concat": lambda n, *xs: torch.cat(xs, 1),
        "add": lambda n, x, y: x + y,
        "global_pool": lambda n, x: x.mean((2, 3)),
        "dense": lambda n, x: x @ w[f"{n['name']}/kernel"],
    }
    activations = {"relu": F.relu_, "elu": F.elu_, "linear": lambda x: x}
    size = nodes[0]["shape"][0]
    images = torch.zeros(1, 3, size, size).to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            values = {nodes[0]["name"]: images}
            for node in nodes[1:]:
                x = ops[node["op"]](node, *(values[name] for name in node["inputs"]))
                values[node["name"]] = activations[node["activation"]](x)
            return x

    return run, torch.__version__


def ncnn(path, threads):
    import importlib.metadata

    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    network.load_param(f"{path}/network.param")
    network.load_model(f"{path}/network.bin")
    size = int(open(f"{path}/size").read())
    images = ncnn.Mat(np.zeros((3, size, size), np.float32)).clone()  # else numpy frees it

    def run():
        with network.create_extractor() as extractor:
            extractor.input("images", images)
            return extractor.extract("logits")

    return run, importlib.metadata.version("ncnn")


def main() -> None:
    runtime, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    run, version = globals()[runtime](path, threads)
    for _ in range(5):
        run()
    print(f"ready {version}", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
