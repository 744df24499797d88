"""Times PyTorch's training steps of the same network on a GPU, without TensorFlow.

    python3 scripts/benchmarks/peers/torch_gpu.py CONFIGURATION float16 BATCH eager [SIZE STEPS]

Weights lie channels last; autocast computes in float16 or bfloat16, or float32 takes TF32. Pixels
are copied to the device in each step, as ours are.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from scripts.benchmarks.peers.torch_train import Network
from squeezenext.config import io as config_io

ROUNDS = 3


def main() -> None:
    """Prints images/s."""
    name, precision, batch, mode = sys.argv[1:5]
    size, steps = (int(text) for text in (sys.argv[5:] or ["0", "20"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    config, batch, kind = config_io.load(name), int(batch), getattr(torch, precision)
    network = Network(config).to(device, memory_format=torch.channels_last)
    run = torch.compile(network) if mode == "compiled" else network
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16" and device == "cuda")
    shape = (batch, 3, size or config.images.size, size or config.images.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    images = images.pin_memory() if device == "cuda" else images
    labels = (torch.arange(batch) % config.model.classes).to(device)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            pixels = images.to(device, non_blocking=True).float().sub_(110.0)
            with torch.autocast(device, kind, enabled=kind != torch.float32):
                loss = nn.functional.cross_entropy(run(pixels).float(), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    first = seconds(1)
    seconds(3)
    rate = statistics.median(steps * batch / seconds(steps) for _ in range(ROUNDS))
    print(f"PyTorch {mode}, {name} {precision} {batch}: {rate:,.0f} images/s, first {first:.0f} s")


if __name__ == "__main__":
    main()
