"""Networks of PyTorch with random weights, recorded: what reads them must give the same logits.

    python tests/pytorch_twins.py > tests/pytorch_twins.json

makes the record where torch, torchvision and pytorchcv are installed. The tests make the same
weights again and need none of them.
"""

import hashlib
import json
import math
import sys
import zlib

import numpy as np

SIDE = 224
# The configuration that a network is imported as: (library, its name there).
TWINS = {
    "squeezenet_v1_0_torchvision": ("torchvision", "squeezenet1_0"),
    "squeezenet_v1_1_torchvision": ("torchvision", "squeezenet1_1"),
    "squeezeresnet_v1_0": ("pytorchcv", "squeezeresnet_v1_0"),
    "squeezeresnet_v1_1": ("pytorchcv", "squeezeresnet_v1_1"),
    "sqnxt23_w1": ("pytorchcv", "sqnxt23_w1"),
    "sqnxt23_w3d2": ("pytorchcv", "sqnxt23_w3d2"),
    "sqnxt23_w2": ("pytorchcv", "sqnxt23_w2"),
    "sqnxt23v5_w1": ("pytorchcv", "sqnxt23v5_w1"),
    "sqnxt23v5_w3d2": ("pytorchcv", "sqnxt23v5_w3d2"),
    "sqnxt23v5_w2": ("pytorchcv", "sqnxt23v5_w2"),
}


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights of a key: kernels keep the size of their input, statistics are no identity."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).normal(size=shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return np.exp(0.3 * noise).astype(np.float32)
    if len(shape) > 1:
        return (noise * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)
    # 0.6, so that twenty units in a row do not end in numbers too large for float32's digits.
    scale = 0.6 if key.endswith(".bn.weight") else 0.0
    return (scale + 0.1 * noise).astype(np.float32)


def images() -> np.ndarray:
    """[1, side, side, 3] float32, as if normalised."""
    return np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)


def signature(shapes: dict[str, tuple[int, ...]]) -> str:
    """One hash over all keys and shapes."""
    lines = sorted(f"{key} {tuple(shape)}" for key, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def network(library: str, name: str):
    """Returns PyTorch's network with these weights, evaluating."""
    import torch

    if library == "torchvision":
        from torchvision.models import squeezenet as module
    elif name.startswith("sqnxt"):
        from pytorchcv.models import squeezenext as module
    else:
        from pytorchcv.models import squeezenet as module
    model = getattr(module, name)()
    state = {key: values(key, tuple(value.shape)) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model.eval()


def record() -> dict:
    """Returns, by configuration, the signature and every 50th logit."""
    import torch

    found = {}
    for configuration, twin in TWINS.items():
        model = network(*twin)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        with torch.no_grad():
            logits = model(torch.from_numpy(images().transpose(0, 3, 1, 2).copy()))[0].numpy()
        every = [round(float(value), 6) for value in logits[::50]]
        found[configuration] = {"signature": signature(shapes), "logits": every}
    return found


if __name__ == "__main__":
    json.dump(record(), sys.stdout, indent=1)
    print()
