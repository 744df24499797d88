"""The names and shapes in the weight files of pytorchcv's sister packages, recorded.

    python tests/layout_twins.py chainer > CHAINER.json    with chainer and chainercv2
    python tests/layout_twins.py keras > KERAS.json        with TensorFlow 2.15 and tf2cv

Each library builds its networks with new weights and writes them to a file, as its authors wrote
the published ones. `layout_twins.json` holds a hash of the names and shapes in each file, by
library and network. The tests write files of the same layout with NumPy and h5py alone.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.pytorch_twins import SIDE, signature

NETWORKS = ("sqnxt23_w1", "sqnxt23v5_w1", "sqnxt23_w3d2", "sqnxt23v5_w3d2", "sqnxt23_w2",
            "sqnxt23v5_w2", "squeezenet_v1_0", "squeezenet_v1_1", "squeezeresnet_v1_0",
            "squeezeresnet_v1_1")  # fmt: skip


def as_chainer(key: str) -> str:
    """Returns Chainer's name of a tensor of pytorchcv."""
    module, _, part = key.rpartition(".")
    names = {"weight": "W", "bias": "b"}
    if module.endswith(".bn"):
        names = {"weight": "gamma", "bias": "beta", "running_mean": "avg_mean",
                 "running_var": "avg_var", "num_batches_tracked": "N"}  # fmt: skip
    module = "output/fc" if module == "output" else module.replace(".", "/")
    return f"{module}/{names[part]}"


def as_keras(key: str, network: str) -> str:
    """Returns Keras' name of a tensor of pytorchcv; the network is "squeeze_net" or another."""
    root, *layers, part = key.split(".")
    names = {"weight": "kernel", "bias": "bias"}
    if layers[-1:] == ["bn"]:
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
                 "running_var": "moving_variance"}  # fmt: skip
    elif layers:
        layers.append("conv")
    root = {"features": "features", "output": "output1"}[root]
    nested = [name for name in layers for _ in range(1 + name.startswith("stage"))]
    around = [root] if layers else []
    return "/".join([root, network, root, *around, *nested, f"{names[part]}:0"])


def hdf5_of(arrays: dict[str, np.ndarray], packed: bool = False) -> bytes:
    """Returns an HDF5 file; `packed`: one that holds the shapes alone, and no numbers."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for key, array in arrays.items():
            if packed:
                file.create_dataset(key, array.shape, array.dtype, chunks=True)
            else:
                file.create_dataset(key, data=array)
    return out.getvalue()


def of_chainer(name: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in a file of `chainer.serializers.save_npz`."""
    import chainer
    from chainercv2.model_provider import get_model

    network = get_model(name)
    network(np.zeros((1, 3, SIDE, SIDE), np.float32))
    chainer.serializers.save_npz(path, network)
    with np.load(path) as file:
        return {key: file[key].shape for key in file.files}


def of_keras(name: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in a file of `save_weights`."""
    import h5py
    import tensorflow as tf
    from tf2cv.model_provider import get_model

    tf.keras.backend.clear_session()  # else the second network's name has a number
    network, found = get_model(name), {}
    network(np.zeros((1, SIDE, SIDE, 3), np.float32))
    network.save_weights(path)

    def note(key, value):
        if isinstance(value, h5py.Dataset):
            found[key] = value.shape

    with h5py.File(path) as file:
        file.visititems(note)
    return found


if __name__ == "__main__":
    shapes = {"chainer": of_chainer, "keras": of_keras}[sys.argv[1]]
    endings = {"chainer": ".npz", "keras": ".h5"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"weights{endings[sys.argv[1]]}")
        made = {name: signature(shapes(name, file)) for name in NETWORKS}
    json.dump({sys.argv[1]: made}, sys.stdout, indent=1)
    print()
