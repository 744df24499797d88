"""Tests for `squeezenext/train/devices.py` on pretended GPUs."""

import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy as collective

from squeezenext import tf_import
from squeezenext.errors import InputError
from squeezenext.network import convolutions, fusing
from squeezenext.network.keras_model import model_variables
from squeezenext.train import devices, exchange, job
from squeezenext.train.cluster import Cluster
from squeezenext.train.evaluation import Evaluator
from tests import tiny

PAIR = Cluster(("a:1", "b:1"), 1)


@pytest.fixture
def pretend(monkeypatch):
    """Makes TensorFlow list GPUs of these compute capabilities."""

    def gpus(*capabilities):
        found = [tf.config.PhysicalDevice(f"GPU:{i}", "GPU") for i in range(len(capabilities))]
        details = dict(zip(found, capabilities, strict=True))
        visible = list(found)

        def set_visible(chosen, _):
            visible[:] = chosen

        others = tf.config.list_physical_devices("CPU")
        for name, those in (("list_physical_devices", found), ("get_visible_devices", visible)):
            listed = {"GPU": those, "CPU": others}
            monkeypatch.setattr(tf.config, name, lambda kind, listed=listed: listed[kind])
        monkeypatch.setattr(tf.config, "set_visible_devices", set_visible)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": details[gpu], "device_name": "RTX"},
        )

    return gpus


@pytest.fixture
def made(monkeypatch):
    """The strategies that are made: TensorFlow's own count of devices, no connection."""
    strategies = []

    def make(resolver, options, hides=0):
        count = collective.CollectiveAllReduceExtended._initialize_local_devices
        local, _ = count(None, resolver, "/job:worker/task:1")
        strategies.append((local, options.implementation.name))
        total = 2 * len(local) - hides
        return types.SimpleNamespace(num_replicas_in_sync=total)

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", make)
    return strategies


@pytest.mark.parametrize(("asked", "used"), [(0, 4), (3, 3), (1, 1)])
def test_workers_train_on_their_gpus_and_exchange_by_nccl(pretend, made, asked, used):
    pretend(*[(8, 0)] * 4)
    assert devices.strategy(asked, PAIR).num_replicas_in_sync == 2 * used
    names = tuple(f"/job:worker/task:1/device:GPU:{i}" for i in range(used))
    assert made == [(names, "NCCL")]


def test_workers_without_gpus_leave_the_exchange_to_tensorflow(made):
    devices.strategy(0, PAIR)
    assert made == [(("/job:worker/task:1/device:CPU:0",), "AUTO")]


def test_gpus_that_tensorflow_does_not_use_are_refused(pretend, made, monkeypatch):
    pretend((8, 0), (8, 0))
    make = tf.distribute.MultiWorkerMirroredStrategy
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda *both: make(*both, hides=2)
    )
    with pytest.raises(InputError, match=r"trains on 2 devices, but 2 workers with 2 .* have 4"):
        devices.strategy(0, PAIR)


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [((5, 2), False), ((6, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), True),
     ((10, 0), False), ((10, 3), False), ((12, 0), False), (None, True)],
)  # fmt: skip
def test_gpus_that_tensorflow_has_no_kernels_for_are_refused(
    pretend, monkeypatch, capability, kernels
):
    built = {"cuda_compute_capabilities": ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]}
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: built)
    pretend((8, 0), capability)
    assert devices.names(1) == ["GPU:0"]  # the other is not asked for
    if kernels:
        assert devices.names(0) == ["GPU:0", "GPU:1"]
        return
    with pytest.raises(InputError, match=r"^GPU:1 \(RTX\) has compute .* kernels for 6.0 to 9.0."):
        devices.names(0)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", dict)  # TensorFlow for CPUs says nothing
    assert devices.names(0)


def test_a_process_that_uses_gpus_already_goes_on_with_these(pretend, monkeypatch):
    """As `adapt`, which trains on one and then evaluates on all that it has."""

    def late(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    pretend(*[(8, 0)] * 4)
    assert devices.names(2) == ["GPU:0", "GPU:1"]
    monkeypatch.setattr(tf.config, "set_visible_devices", late)
    assert devices.names(0) == devices.names(2) == ["GPU:0", "GPU:1"]
    assert devices.names(1) == ["GPU:0"]
    with pytest.raises(InputError, match="--devices 3 comes too late in this process"):
        devices.names(3)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([(6, 1)], "float32"), ([(7, 0)], "mixed_float16"), ([(7, 5), (8, 0)], "mixed_float16"),
     ([(8, 0)], "mixed_bfloat16"), ([(9, 0), (8, 9)], "mixed_bfloat16"),
     ([None], "mixed_float16")],
)  # fmt: skip
def test_the_precision_is_that_of_the_oldest_gpu_in_use(pretend, capabilities, expected):
    pretend(*capabilities, (6, 0))
    devices.names(len(capabilities))
    assert devices.precision("auto") == expected
    assert devices.precision("float32") == "float32"


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_float32_is_float32_and_tf32_a_choice(precision):
    evaluator = Evaluator(tiny.SQUEEZENET, tf.distribute.get_strategy(), precision)
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    assert tf32 == (precision == "tf32")
    assert {layer.dtype_policy.name for layer in evaluator.model.layers} == {"float32"}


@pytest.mark.parametrize("capabilities", [[], [(7, 5)], [(8, 0), (7, 5)], [None]])
def test_tf32_is_refused_where_no_gpu_computes_in_it(pretend, capabilities):
    pretend((9, 0))
    assert devices.precision("tf32") == "tf32"
    pretend(*capabilities)
    with pytest.raises(InputError, match="tf32 needs GPUs of compute capability 8.0 or later"):
        devices.precision("tf32")


@pytest.mark.parametrize(
    ("others", "expected"),
    [(0, "float32"), (1, "tf32"), (2, "mixed_float16"), (3, "mixed_bfloat16")],
)
def test_workers_agree_on_a_precision(monkeypatch, others, expected):
    monkeypatch.setattr(devices, "exchange", lambda _, numbers: np.array([numbers, [others]]))
    assert devices.agreed_precision("mixed_bfloat16", None) == expected


@pytest.mark.parametrize("sign", ["/dev/dxg", "/proc/driver/nvidia", "nvidia-smi"])
def test_a_gpu_that_tensorflow_does_not_see_is_said_once(sign, monkeypatch):
    said = []
    monkeypatch.setattr(devices.LOG, "warning", lambda text, *_: said.append(text))
    devices._warn_that_no_gpu_is_seen.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tf_import.os.path, "exists", lambda path: path == sign)
    monkeypatch.setattr(tf_import.shutil, "which", lambda name: name if name == sign else None)
    for _ in range(2):
        devices.strategy(1)
    assert len(said) == 1 and "TensorFlow sees no GPU, so the CPU computes" in said[0]
    assert "bash scripts/setup.sh requirements-cuda.txt" in said[0]
    devices._warn_that_no_gpu_is_seen.cache_clear()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not tf_import.has_gpu_driver()
    devices.strategy(1)
    assert len(said) == 1


def test_few_cores_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(job.LOG, "propagate", True)
    caplog.set_level("INFO", job.LOG.name)
    monkeypatch.setattr(job, "cores", lambda: 8)
    job._log_cores(2)
    assert "This process may use 8 CPU cores." in caplog.text and "few" not in caplog.text
    job._log_cores(8)
    assert "8 cores are few for 8 GPUs, which will wait for images; give this process 32 cores" in (
        caplog.text
    )


@pytest.fixture
def with_gpu(monkeypatch):
    """As if the process had a GPU."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [f"{kind}:0"])


def test_placement_decides_which_kernels_compute(with_gpu):
    assert not fusing.on_cpu()
    with tf.device("CPU:1"):
        found = [fusing.on_cpu(), bool(tf.function(lambda: tf.constant(fusing.on_cpu()))())]
        with tf.device("GPU:0"):
            found.append(fusing.on_cpu())
    assert found == [True, True, False]


def test_a_grouped_network_ends_its_run_beside_a_gpu(with_gpu, monkeypatch, tmp_path):
    """On the CPU, where without oneDNN nothing computes the GPU's grouped convolution."""
    config, ways = tiny.SQUEEZENEXT, []
    own = convolutions.GroupedConv2D._way
    monkeypatch.setattr(
        convolutions.GroupedConv2D, "_way", lambda layer: ways.append(own(layer)) or ways[-1]
    )
    model = tiny.model_directory(tmp_path, config)
    state = {name: np.asarray(value) for name, value in model_variables(model).items()}
    ways.clear()
    exchange.write_end(tmp_path, config, state, {"step": 1})
    assert set(ways) == {"dense"}
