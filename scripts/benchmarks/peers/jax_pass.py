"""Compiles and times a pass that scripts/benchmarks/gpu.py --check export wrote, with JAX's XLA.

    python3 scripts/benchmarks/peers/jax_pass.py FOLDER/NAME.mlir.gz [REPEATS]

It needs JAX alone. Exit code 1: the pass computes another gradient than the file has.
"""

import gzip
import re
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax._src.lib import xla_client  # no public function compiles StableHLO


def compiled(path: Path, device):
    """Returns the program of a .mlir.gz, compiled for a device, and the seconds that it took."""
    # The weights stay as they are, run after run, so no result may take an argument's memory.
    text = re.sub(r"mhlo\.input_output_alias = \[.*?\], ", "", gzip.open(path, "rt").read())
    devices, options = xla_client.DeviceList((device,)), xla_client.CompileOptions()
    started = time.perf_counter()
    program = device.client.compile_and_load(text.encode(), devices, options)
    return program, time.perf_counter() - started


def timed(program, arguments: list, fresh: list[int], device, repeats: int) -> tuple[float, list]:
    """Returns the seconds of a run, to which `fresh` arguments are copied, and its results."""
    held = [jax.device_put(argument, device) for argument in arguments]

    def run(count: int) -> list:
        for _ in range(count):
            for number in fresh:
                held[number] = jax.device_put(arguments[number], device)
            results = program.execute(held)
        return jax.block_until_ready(results)

    run(2)  # unmeasured: XLA allocates memory and chooses algorithms
    started = time.perf_counter()
    results = run(repeats)
    return (time.perf_counter() - started) / repeats, results


def main() -> int:
    """Prints the seconds of a pass and, where the file has one, how near its gradient is."""
    path, repeats = Path(sys.argv[1]), int((sys.argv[2:] or ["20"])[0])
    name = path.name.removesuffix(".mlir.gz")
    jax.config.update("jax_enable_x64", True)
    with np.load(path.with_name(f"{name}.npz")) as archive:
        arguments = [archive[f"arr_{number}"] for number in range(len(archive.files) - 4)]
        scale, expected, limit = (archive[key] for key in ("scale", "expected", "limit"))
        images = int(archive["images"])
    # numpy's generator gives the same pixels everywhere.
    arguments[images] = np.random.default_rng(0).integers(0, 256, arguments[images], np.uint8)
    device = jax.devices()[0]
    program, seconds = compiled(path, device)
    print(f"{name}: compiled in {seconds:.0f} s on {device.device_kind}", flush=True)
    for fresh in ([], [images]):
        seconds, results = timed(program, arguments, fresh, device, repeats)
        rate, what = len(arguments[images]) / seconds, "copied each time" if fresh else "held"
        print(f"{name}: {rate:,.0f} images/s, {1e3 * seconds:.2f} ms, images {what}", flush=True)
    if not expected.size:
        return 0
    error = np.linalg.norm(np.asarray(results[0]) / scale - expected) / np.linalg.norm(expected)
    wrong = not error <= limit  # NaN is wrong
    verdict = "WRONG" if wrong else "right"
    print(f"{name}: {error:.1e} from the gradient of TensorFlow's CPU kernels, {verdict}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
