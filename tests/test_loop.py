"""Tests for `training/loop.py`: the same training and scoring on any number of devices."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from scripts.benchmarks import step
from scripts.faults.nan import Planted
from squeezenext.config import io as config_io
from squeezenext.config import recipes
from squeezenext.metrics import Evaluation
from squeezenext.model import checkpoint
from squeezenext.network.layers import Dropout
from squeezenext.train import cluster, devices, evaluation, loop, losses, measure
from tests import tiny


def make(config, count, reader, micro_batch=None, precision="float32", kind=loop.Loop):
    return kind(
        config,
        strategy=devices.strategy(count),
        precision=precision,
        examples=reader.split.examples,
        micro_batch=micro_batch or config.training.batch_size // count,
        seed=3,
    )


def model_of(state):
    return {name: a for name, a in state.items() if name.startswith("model/")}


def weights_after(config, count, reader, steps=20, **options):
    made = make(config, count, reader, **options)
    made.train(made.batches(reader), steps)
    return model_of(made.state())


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return tiny.reader(tmp_path_factory.mktemp("records"))


def difference(one, other, part):
    names = [name for name in one if part in name.split("/")[-1]]
    return max(np.abs(one[name] - other[name]).max() for name in names)


def with_training(config, **changes):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


@pytest.mark.parametrize("text", ["", "no JSON"])
def test_several_devices_train_alone_whatever_tf_config_says(logical_devices, monkeypatch, text):
    """`--cluster none`, or an empty variable, which is none."""
    monkeypatch.setenv("TF_CONFIG", text)
    made = devices.mirrored.__wrapped__(("CPU:2", "CPU:3"))
    assert made.num_replicas_in_sync == 2 and os.environ["TF_CONFIG"] == text


def test_a_batch_that_is_no_whole_micro_batches_is_refused(reader):
    for count, micro_batch in ((2, 32), (1, 24)):
        with pytest.raises(ValueError, match="is not whole micro-batches"):
            make(GENTLE, count, reader, micro_batch=micro_batch)


# Training with ReLU and batch norm is chaotic: at the quickstart's rate, a change of the initial
# weights by 1e-7 grows to 1e-1 within 5 steps on a single device. At this one it does not.
GENTLE = with_training(
    tiny.SQUEEZENEXT, batch_size=32, learning_rate=0.01, warmup_epochs=0.0, epochs=40.0
)
ALONE = with_training(tiny.SQUEEZENEXT, synchronized_batch_norm=False)


@pytest.fixture(scope="module")
def gentle(logical_devices, reader):
    """By number of devices: (the loop after 20 steps, its state before and after them)."""
    found = {}
    for count in (1, 2, 4):
        made = make(GENTLE, count, reader)
        before = made.state()
        made.train(made.batches(reader), 20)
        found[count] = made, before, made.state()
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_devices_agree_after_20_steps(gentle, count):
    (_, start, one), (_, _, several) = gentle[1], gentle[count]
    for part in ("kernel", "gamma", "beta"):
        assert difference(model_of(several), one, part) < 1e-4
    assert difference(model_of(several), start, "kernel") > 2e-3
    for name in model_of(several):
        if "moving" in name:
            np.testing.assert_allclose(several[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])  # with a step of our own, with Keras'
def test_devices_agree_on_keras_optimizers_and_averages(logical_devices, reader, optimizer):
    config = with_training(GENTLE, optimizer=optimizer, ema=0.9, weight_decay=0.01)
    states = []
    for count in (1, 2):
        made = make(config, count, reader)
        before = made.state()
        made.train(made.batches(reader), 10)
        states.append(made.state())
    one, two = states
    assert {name.partition("/")[0] for name in one} >= {"model", "optimizer", "average", "update"}
    for name, array in two.items():
        if "moving" not in name and loop.REPLICAS not in name:
            np.testing.assert_allclose(array, one[name], rtol=1e-3, atol=2e-5, err_msg=name)
    assert difference(model_of(two), before, "kernel") > 1e-3


@pytest.mark.parametrize(("count", "batch"), [(1, 3), (2, 16), (4, 3)])
def test_evaluation_counts_every_example_once(gentle, reader, count, batch):
    result = gentle[count][0].evaluator.evaluate(reader, batch)
    assert result.summary()["examples"] == reader.split.examples
    assert list(result.labels) == [i % 3 for i in range(reader.split.examples)]
    one = gentle[1][0]
    one.restore({k: v for k, v in gentle[count][2].items() if k != loop.REPLICAS})
    np.testing.assert_allclose(
        result.loss, one.evaluator.evaluate(reader, 8).loss, rtol=1e-4, atol=1e-6
    )


def test_accumulated_gradients_are_those_of_the_whole_batch(logical_devices, reader):
    """Without batch norm, whose statistics are a micro-batch's, there is no difference."""
    config = dataclasses.replace(
        tiny.SQUEEZENET, model=dataclasses.replace(tiny.SQUEEZENET.model, dropout=0.0)
    )
    whole = weights_after(config, 1, reader)
    both = weights_after(config, 2, reader, micro_batch=2)
    for name, array in whole.items():
        if "dropout" not in name:
            np.testing.assert_allclose(both[name], array, atol=1e-5, err_msg=name)


def test_batches_are_copied_to_the_one_gpu_ahead(logical_devices, reader, monkeypatch):
    """The second logical CPU device plays the GPU."""
    expected = weights_after(tiny.SQUEEZENEXT, 1, reader, 3)
    made = make(tiny.SQUEEZENEXT, 1, reader)
    second = tf.config.list_logical_devices("CPU")[1:2]
    with monkeypatch.context() as patched:
        patched.setattr(tf.config, "list_logical_devices", lambda kind: second)
        batches, same = made.batches(reader), made.batches(reader)
    assert next(same)[0].device.endswith("CPU:1")
    made.train(batches, 3)
    for name, array in model_of(made.state()).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def learns(made, batches):
    first = made.train(batches, 1)[0].means()["loss"]
    last = [made.train(batches, 5)[0] for _ in range(4)][-1].means()["loss"]
    assert made.model.output.dtype == "float32"
    return last < 0.7 * first


def test_bfloat16_learns(logical_devices, reader, bfloat16):
    made = make(tiny.SQUEEZENEXT, 1, reader, precision="mixed_bfloat16")
    assert learns(made, made.batches(reader))


@pytest.mark.parametrize("count", [2, 4])
def test_nan_on_any_replica_harms_no_weight_and_lowers_every_scale(logical_devices, reader, count):
    made = make(tiny.SQUEEZENEXT, count, reader, precision="mixed_float16", kind=Planted)
    batches = made.batches(reader)
    assert count > 2 or learns(made, batches)
    before = [weight.numpy() for weight in made.update.weights]
    scale = made.update.loss_scale.numpy()
    for replica in range(count):
        made.bad.assign(replica)
        sums, hopeless = made.train(batches, 2)
        assert (sums.steps, sums.examples, hopeless) == (2, 0, False)
        scale /= 4
        for copy in made.strategy.experimental_local_results(made.update.loss_scale):
            assert copy.numpy() == scale
    for old, weight in zip(before, made.update.weights, strict=True):
        for copy in made.strategy.experimental_local_results(weight.value):
            np.testing.assert_array_equal(copy.numpy(), old)
    assert np.isfinite(made.statistics.rows()).all()
    assert made.update.skipped.numpy() == 2 * count
    made.update.loss_scale.assign(1.0)
    assert made.train(batches, 7)[1] and made.update.skipped.numpy() == 2 * count + 1
    made.bad.assign(-1)
    assert not made.train(batches, 1)[1]


def worker(folder):
    """One of two processes: NaN on each of the two replicas in turn, then an ordinary training."""
    group = cluster.find_cluster("auto")
    strategy = devices.strategy(0, group)
    options = {"strategy": strategy, "examples": 40, "seed": 3}
    reader = tiny.reader(Path(folder))
    made = Planted(tiny.SQUEEZENEXT, precision="mixed_float16", micro_batch=4, **options)
    batches = made.batches(reader)
    before = checkpoint.weights_sha256(weights_of(made))
    for replica in (0, 1):
        made.bad.assign(replica)
        made.train(batches, 2)
    unharmed = checkpoint.weights_sha256(weights_of(made)) == before
    made.bad.assign(-1)
    made.train(batches, 2)
    found = [unharmed, float(made.update.loss_scale.numpy()), int(made.update.skipped.numpy())]
    told = devices.exchange(strategy, [group.index, 7]).tolist()
    print(json.dumps([*found, told, checkpoint.weights_sha256(weights_of(made))]))
    made = loop.Loop(GENTLE, precision="float32", micro_batch=16, **options)
    made.train(made.batches(reader), 20)
    state = made.state()
    if group.index == 0:
        checkpoint.save(Path(folder) / "two", 20, state, {})
    trained = made.batches_delivered
    made.evaluator.evaluate(reader, 8)
    both = made.batches_delivered
    made.batches(reader)  # what the iterator before has read ahead no longer counts
    print(
        json.dumps(
            [
                trained >= 20,
                both >= trained + 3,
                made.evaluator.delivered.count,
                made.batches_delivered < both,
            ]
        )
    )


def weights_of(made):
    return {str(i): weight.numpy() for i, weight in enumerate(made.update.weights)}


def test_two_workers_equal_one_and_bear_nan_on_either(gentle, reader):
    folder = reader.split.shards[0].path.parent
    program = f"from tests.test_loop import worker; worker({str(folder)!r})"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=tiny.environment(TF_CONFIG=config),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for config in tiny.tf_configs(2)
    ]
    told = []
    for process in workers:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        lines = output.splitlines()
        told.append(json.loads(lines[0]))
        assert json.loads(lines[1]) == [True, True, 3, True]  # 40 images: 3 times 8 on 2 devices
    assert told[0] == told[1]
    unharmed, scale, skipped, exchanged, _ = told[0]
    assert (unharmed, scale, skipped) == (True, 2.0**15 / 16, 4)
    assert exchanged == [[0, 7], [1, 7]]
    two, _ = checkpoint.load(folder / "two", 20)
    for part in ("kernel", "gamma", "beta"):
        assert difference(model_of(two), gentle[1][2], part) < 1e-4


@pytest.fixture(scope="module")
def alone(logical_devices, reader):
    """Two devices that each keep statistics of their own, after 5 steps; and their state."""
    made = make(ALONE, 2, reader)
    made.train(made.batches(reader), 5)
    return made, made.state()


def test_evaluation_uses_the_mean_of_the_statistics_and_leaves_each_its_own(alone, reader):
    live, state = alone
    rows = live.statistics.rows()
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    loss = live.evaluator.evaluate(reader, 4).loss
    np.testing.assert_array_equal(live.statistics.rows(), rows)
    again = make(ALONE, 1, reader)
    assert not again.restore(state)  # one device has no use for two devices' statistics
    np.testing.assert_allclose(again.evaluator.evaluate(reader, 4).loss, loss, rtol=1e-6, atol=1e-6)


def test_resumed_on_as_many_devices_each_has_its_own_statistics(alone, reader):
    live, state = alone
    live.restore(state)
    live.train(live.batches(reader), 5)
    expected = live.state()
    live.train(live.batches(reader), 1)
    assert live.restore(state)
    np.testing.assert_array_equal(live.statistics.rows(), state[loop.REPLICAS])
    live.train(live.batches(reader), 5)
    actual = live.state()
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_the_average_is_evaluated_with_averaged_statistics(logical_devices, reader):
    """The averages in numpy; batch norm's own of two batches counts towards their length."""
    config = with_training(  # 100 steps in all
        ALONE, average_share=0.04, epochs=20.0, batch_norm_momentum=0.5, learning_rate=1.0
    )
    made = make(config, 2, reader)
    batches, expected = made.batches(reader), made.state()
    for number in range(1, 31):
        made.train(batches, 1)
        now = made.state()
        length = min(4, (9 + number) / 9)
        for name in (n for n in expected if n.startswith("average/")):
            own = name.removeprefix("average/")
            new = now[own if own in now else f"model/{own}"]
            trained = name.endswith(("kernel", "bias", "gamma", "beta"))
            share = 1 / max(1, length - (0 if trained else 2))
            expected[name] = expected[name] + share * (new - expected[name])
    averages = {n for n in now if n.startswith("average/")}
    assert {n.rpartition("/")[2] for n in averages} >= {"kernel", "moving_variance", "statistics"}
    for name in averages:
        np.testing.assert_allclose(now[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    with made.averaged():
        rows = made.statistics.rows()
        loss = made.evaluator.evaluate(reader, 4).loss
    np.testing.assert_array_equal(rows, now[checkpoint.average_of(loop.REPLICAS)])
    assert np.abs(rows - now[loop.REPLICAS]).max() > 1e-2
    alone = make(ALONE, 1, reader)
    alone.restore(checkpoint.evaluated(now) | alone.update.state())
    np.testing.assert_allclose(alone.evaluator.evaluate(reader, 4).loss, loss, rtol=1e-5, atol=1e-5)
    assert_resumes(made, now, reader)


def assert_resumes(made, state, reader):
    """Another loop that restores a state goes on as the loop that has it, bit for bit."""
    made.train(made.batches(reader), 2)
    again = make(made.config, made.share.total, reader)
    assert again.restore(state)
    again.train(again.batches(reader), 2)
    expected = made.state()
    for name, array in again.state().items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_an_evaluation_can_be_left(alone, reader):
    def leave():
        raise KeyboardInterrupt

    rows = alone[0].statistics.rows()
    with pytest.raises(KeyboardInterrupt):
        alone[0].evaluator.evaluate(reader, 4, leave)
    np.testing.assert_array_equal(alone[0].statistics.rows(), rows)


def test_a_missing_or_doubled_example_is_an_error():
    columns = [np.array([0, 1, 1, -1])] + [np.zeros(4)] * 6
    with pytest.raises(RuntimeError, match="not each of 3 once"):
        Evaluation.of_rows(columns, 3)


def test_label_smoothing_is_cross_entropy_with_a_smoothed_target():
    logits = tf.constant([[2.0, -1.0, 0.5]])
    target = tf.constant([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    expected = tf.nn.softmax_cross_entropy_with_logits(target, logits)
    actual = losses.cross_entropy(tf.one_hot([0], 3), logits, 0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_of_equal_logits_only_the_lowest_class_is_a_hit():
    logits = tf.zeros([2, 8])
    top1, top5 = evaluation.hits(tf.constant([0, 5], tf.int64), logits)
    assert list(top1.numpy()) == [1, 0] and list(top5.numpy()) == [1, 0]


def test_measuring_xla_changes_nothing(logical_devices, reader, monkeypatch):
    """Without XLA itself: compiling this network takes it 20 s."""
    made = make(tiny.SQUEEZENET, 1, reader)
    assert {layer.seed for layer in made.model.layers if isinstance(layer, Dropout)} == {3}
    before = made.state()
    time_pass = measure._time_pass

    def quick(looped, element, jit):
        return time_pass(looped, element, False) * (1e-3 if jit else 1.0)

    monkeypatch.setattr(measure, "_time_pass", quick)
    seconds = measure.measure_xla(made, made.batches(reader))
    assert made.xla and 0 < seconds[True] < seconds[False] < np.inf
    for name, array in made.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not np.any(made.update._accumulated.numpy())


def test_a_step_of_squeezenext_launches_few_kernels(logical_devices, reader):
    """7,113 before weights and statistics were vectors; a GPU needs 5 microseconds for each."""
    config = recipes.apply("modern", config_io.load("v_1_0_SqNxt_23"))
    made = make(step.small(config, 1), 1, reader, precision="mixed_float16")
    batch = measure.random_batch(made.config, step.IMAGES)
    counts = step.kernels(made.graph_def(iter(tf.data.Dataset.from_tensors(batch))))
    assert counts["Conv2D"] == counts["FusedBatchNormV3"] == 111
    assert counts.total() <= 1400


def test_replicas_share_the_graph_of_a_pass(logical_devices, reader):
    made = make(ALONE, 2, reader)
    library = made.graph_def(made.batches(reader)).library.function
    assert sum("FusedBatchNormGradV3" in {node.op for node in f.node_def} for f in library) == 1


def test_xla_compiles_the_pass_of_every_replica(logical_devices, reader):
    """TensorFlow itself fails there: keras#19005, tensorflow#53140."""
    losses_of, compiled = [], []
    for xla in (False, True):
        made = make(ALONE, 2, reader)
        made.use_xla(xla)
        losses_of.append(made.train(made.batches(reader), 3)[0].loss)
        library = made.graph_def(made.batches(reader)).library.function
        passes = [f for f in library if "FusedBatchNormGradV3" in {n.op for n in f.node_def}]
        compiled.append([f.attr["_XlaMustCompile"].b for f in passes])
    assert losses_of[0] == pytest.approx(losses_of[1], rel=1e-4)
    assert compiled == [[False], [True]]
