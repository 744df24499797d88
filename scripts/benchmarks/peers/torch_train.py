"""Trains the same networks in PyTorch, eagerly or compiled: a peer of benchmarks/train.py.

Run it with an interpreter that has PyTorch; TensorFlow is not needed.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from squeezenext.config import Config
from squeezenext.network import architecture


class TorchOps:
    """`networks.Ops` whose tensors are (number of the step, channels); `Network` runs the steps."""

    def __init__(self):
        self.steps: list[tuple[nn.Module, tuple[int, ...]]] = []

    def _step(self, module: nn.Module, inputs: Sequence[tuple[int, int]], channels: int):
        self.steps.append((module, tuple(number for number, _ in inputs)))
        return len(self.steps), channels

    def input(self, size):
        del size
        return 0, 3

    def channels(self, x):
        return x[1]

    def conv(self, x, name, filters, kernel, *, initializer, strides=1, groups=1, same=False,
             bias=False):  # fmt: skip
        del name, initializer
        padding = tuple(side // 2 for side in kernel) if same else 0
        layer = nn.Conv2d(x[1], filters, kernel, strides, padding, groups=groups, bias=bias)
        return self._step(layer, [x], filters)

    def batch_norm(self, x, name):
        del name
        return self._step(nn.BatchNorm2d(x[1], momentum=0.001), [x], x[1])

    def activation(self, x, name, kind):
        del name
        return self._step(nn.ReLU() if kind == "relu" else nn.ELU(), [x], x[1])

    def max_pool(self, x, name):
        del name
        return self._step(nn.MaxPool2d(3, 2, ceil_mode=True), [x], x[1])

    def pad(self, x, name, amount):
        del name
        return self._step(nn.ZeroPad2d(amount), [x], x[1])

    def concat(self, tensors, name):
        del name
        return self._step(_Concat(), tensors, sum(x[1] for x in tensors))

    def add(self, tensors, name):
        del name
        return self._step(_Add(), tensors, tensors[0][1])

    def dropout(self, x, name, rate):
        del name
        return self._step(nn.Dropout(rate), [x], x[1])

    def global_pool(self, x, name):
        del name
        return self._step(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), [x], x[1])

    def dense(self, x, name, units, initializer, bias):
        del name, initializer
        return self._step(nn.Linear(x[1], units, bias=bias), [x], units)


class _Concat(nn.Module):
    def forward(self, *tensors):
        return torch.cat(tensors, 1)


class _Add(nn.Module):
    def forward(self, x, y):
        return x + y


class Network(nn.Module):
    """Runs recorded steps one after the other."""

    def __init__(self, config: Config):
        super().__init__()
        ops = TorchOps()
        architecture.build_network(ops, config)
        self.layers = nn.ModuleList(module for module, _ in ops.steps)
        self.inputs = [inputs for _, inputs in ops.steps]

    def forward(self, images):
        values = [images]
        for layer, inputs in zip(self.layers, self.inputs, strict=True):
            values.append(layer(*(values[number] for number in inputs)))
        return values[-1]


def trainer(config: Config, batch: int, compiled: bool) -> Callable[[int], float]:
    """Returns a function that trains so many steps and says how many seconds they took."""
    torch.manual_seed(0)
    network = Network(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    run = torch.compile(network) if compiled else network
    size = config.images.size
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(config.model.classes, (batch,))

    def train(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(run(images), labels).backward()
            optimizer.step()
        return time.perf_counter() - started

    return train
