"""Runs a LiteRT file in memory, one image at a time, without TensorFlow."""

import contextlib
import os
import queue
from collections.abc import Iterator

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from squeezenext import tf_import
from squeezenext.cli import cores
from squeezenext.errors import InputError


class Runner:
    """A LiteRT file with one input and any number of outputs; for one thread at a time.

    Args:
      model: the file's content.
      threads: number of threads of one run.
      name: name of the model, for messages.

    Raises:
      InputError: this runtime cannot run the file.
    """

    def __init__(self, model: bytes, threads: int, name: str):
        self._name = name
        with _explained(name), tf_import.silent():
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
            (self._input,) = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()

    @property
    def size(self) -> int:
        """The side of the square input, in pixels."""
        return int(self._input["shape"][1])

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Returns all outputs for an image, without the batch, as float32.

        Args:
          pixels: [size, size, 3] float32.

        Raises:
          InputError: this runtime cannot run the file.
        """
        values = _quantized(pixels, self._input)[np.newaxis]
        with _explained(self._name):
            self._interpreter.set_tensor(self._input["index"], values)
            self._interpreter.invoke()
            return [
                _dequantized(self._interpreter.get_tensor(output["index"])[0], output)
                for output in self._outputs
            ]


class RunnerPool:
    """Lends a LiteRT file's runners to any number of threads, also after a fork.

    There are as many runners as cores, each made when it is first needed: one with its own memory
    a core keeps all cores busy, and a thread that finds none free waits.

    Args:
      model: the file's content, so that all runners compute the same network.
      name: name of the model, for messages.
    """

    def __init__(self, model: bytes, name: str):
        self._model, self._name = model, name
        self._free = self._empty()

    def _empty(self) -> tuple[int, queue.LifoQueue]:
        """Returns this process's number and its free places, none of which has a runner yet."""
        places: queue.LifoQueue = queue.LifoQueue()
        for _ in range(cores()):
            places.put(None)
        return os.getpid(), places

    @contextlib.contextmanager
    def lend(self) -> Iterator[Runner]:
        """Lends a runner that no other thread uses.

        Raises:
          InputError: this runtime cannot run the file.
        """
        process, places = self._free
        if process != os.getpid():  # a fork copies runners and locks, but not the threads in them
            self._free = _, places = self._empty()
        runner = places.get()
        try:
            runner = runner or Runner(self._model, 1, self._name)
            yield runner
        finally:
            places.put(runner)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Names the model in what the runtime reports, for some faults only when it runs."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["the runtime gives no reason"])[0].rstrip(".")
        raise InputError(
            f"{name} is no LiteRT file that can be run: {reason}; export it again."
        ) from error


def _quantized(values: np.ndarray, details: dict) -> np.ndarray:
    kind = details["dtype"]
    if kind == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(kind)
    return (values / scale + zero).round().clip(limits.min, limits.max).astype(kind)


def _dequantized(values: np.ndarray, details: dict) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)
