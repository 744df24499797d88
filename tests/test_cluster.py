"""Tests for `train/cluster.py` and `train/watchdog.py`: who is there, who no longer."""

import dataclasses
import errno
import json
import re
import subprocess

import pytest

from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory
from squeezenext.train import cluster, command, watchdog
from squeezenext.train.cluster import Cluster
from squeezenext.train.options import Options
from squeezenext.train.watchdog import Watchdog
from tests.conftest import REPOSITORY

LOST_SECONDS = Options(model_dir="run").lost_seconds


def tf_config(workers, kind="worker", index=0, **more):
    document = {"cluster": {"worker": workers} | more, "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(document)}


def test_tf_config():
    assert cluster.find_cluster("auto", {}) is None
    assert cluster.find_cluster("auto", tf_config(["a:1"])) is None  # alone
    assert cluster.find_cluster("none", tf_config(["a:1", "b:1"])) is None
    assert cluster.find_cluster("auto", tf_config(["a:1", "b:1"], index=1)) == Cluster(
        ("a:1", "b:1"), 1
    )


def test_the_chief_comes_first():
    given = {"chief": ["c:1"]}
    expected = ("c:1", "a:1", "b:1")
    assert cluster.find_cluster("auto", tf_config(["a:1", "b:1"], "chief", **given)) == Cluster(
        expected, 0
    )
    assert cluster.find_cluster("auto", tf_config(["a:1", "b:1"], "worker", 1, **given)).index == 2


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", pytest.param("[" * 100_000, id="deep"),
     '{"cluster": {}, "task": {"type": "worker", "index": 0}}',
     tf_config(["a:1"], index=1)["TF_CONFIG"], tf_config(["a:1"], "ps")["TF_CONFIG"],
     tf_config(["a:1"], chief=["b:1", "c:1"])["TF_CONFIG"]],
)  # fmt: skip
def test_a_bad_tf_config_is_named(text):
    with pytest.raises(InputError, match="TF_CONFIG"):
        cluster.find_cluster("auto", {"TF_CONFIG": text})


SLURM = {
    "SLURM_JOB_ID": "20003",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[08-09],login1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2),2",
}


def test_slurm():
    found = cluster.find_cluster("slurm", SLURM)
    assert found == Cluster(("gpu08:12006", "gpu09:12006", "login1:12006", "login1:12007"), 2)
    alone = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
    alone |= {"SLURM_JOB_NODELIST": "a", "SLURM_TASKS_PER_NODE": "1"}
    assert cluster.find_cluster("slurm", alone) is None


def test_jobs_and_steps_that_share_nodes_have_ports_of_their_own():
    def ports(job, step):
        environment = SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
        return {
            address.split(":")[1] for address in cluster.find_cluster("slurm", environment).workers
        }

    several = [ports(job, step) for job in (*range(3, 9), 628, 40629) for step in (0, 1)]
    assert len(set().union(*several)) == 2 * len(several)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_PROCID": None}, "SLURM_PROCID is not set; start the workers with srun"),
        ({"SLURM_STEP_NODELIST": None}, "SLURM_STEP_NODELIST is not set"),
        ({"SLURM_STEP_NODELIST": "a[1-x]"}, "no list of nodes"),
        ({"SLURM_STEP_NODELIST": "a,b"}, "do not fit 2 nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "one"}, "no list of tasks"),
        ({"SLURM_PROCID": "4"}, "do not fit"),
        ({"SLURM_DISTRIBUTION": "cyclic"}, "--distribution=block"),
    ],
)
def test_what_slurm_should_have_set_is_named(changes, message):
    environment = {k: v for k, v in (SLURM | changes).items() if v is not None}
    with pytest.raises(InputError, match=message):
        cluster.find_cluster("slurm", environment)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a", ["a"]),
        ("a[1,3-4]", ["a1", "a3", "a4"]),
        ("a[099-101]b,c", ["a099b", "a100b", "a101b", "c"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_slurms_lists_of_hosts(text, hosts):
    assert cluster.hosts_of(text) == hosts


class Bench:
    """Three workers on one clock; only the first one's verdicts are looked at."""

    def __init__(self, folder, lost_seconds=LOST_SECONDS):
        self.now, self.lost_seconds = 0.0, lost_seconds
        self.told = []
        self.folder = folder
        (folder / model_directory.WORKERS).mkdir()
        self.dogs = [self.dog(index) for index in range(3)]

    def dog(self, index):
        """A worker that starts now."""
        workers = Cluster(("a:1", "b:1", "c:1"), index)
        how = pytest.fail, self.told.append, lambda: self.now
        return Watchdog(self.folder, workers, self.lost_seconds, *how)

    def go(self, seconds, beating=(0, 1, 2), working=(0, 1, 2)):
        """Lets time pass; returns the first worker's first complaint and when it came."""
        for _ in range(round(seconds)):
            self.now += 1
            for index in beating:
                self.dogs[index].send()
            for index in working:
                self.dogs[index].progress()
            if wrong := self.dogs[0].check():
                self.code = wrong.code
                return wrong.sentence, self.now
        return None, self.now


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def start(bench):
    assert bench.go(3)[0] is None
    for dog in bench.dogs:
        dog.connected()


def test_all_well(bench):
    start(bench)
    assert bench.go(1000)[0] is None


def test_one_that_falls_silent_is_named_in_time(bench):
    start(bench)
    wrong, now = bench.go(60, beating=(0, 2))
    assert wrong.startswith("worker 1 (b:1) has not answered for 16 s") and now == 19


def test_a_limit_of_ones_own_waits_for_a_file_server(tmp_path):
    bench = Bench(tmp_path, lost_seconds=120.0)
    start(bench)
    assert bench.go(110, beating=(0, 2))[0] is None
    assert bench.go(10)[0] is None
    wrong, _ = bench.go(200, beating=(0, 2))
    assert wrong.startswith("worker 1 (b:1) has not answered for 121 s")


@pytest.mark.parametrize("seconds", [0.0, 4.9, 601.0, float("nan"), float("inf")])
def test_a_limit_out_of_range_is_refused(seconds, capsys):
    with pytest.raises(InputError, match="lost_seconds"):
        Options(model_dir="run", lost_seconds=seconds)
    assert command.main(["train", "--model_dir", "run", "--lost_seconds", str(seconds)]) == 2
    assert "lost_seconds" in capsys.readouterr().err


def test_a_process_that_was_stopped_itself_blames_nobody(bench):
    start(bench)
    bench.now += 1000
    assert bench.dogs[0].check() is None
    assert bench.go(60)[0] is None
    bench.now += 1000
    wrong, now = bench.go(60, beating=(0, 2))
    assert wrong.startswith("worker 1") and now > 2060 + 15


def test_one_that_has_left_says_why(bench):
    start(bench)
    bench.dogs[2].leave("the disk is on fire", 75)
    assert bench.go(1)[0] == "worker 2 (c:1) has left: the disk is on fire" and bench.code == 75


@pytest.mark.parametrize("code", [1, 2, 75])
def test_a_fault_of_one_ends_all_with_its_exit_code(bench, code):
    """Else a job that is put back into the queue for a 75 meets the same damaged record again."""
    start(bench)
    bench.dogs[1].leave("record 4 cannot be used", code)
    assert bench.go(1)[0].endswith("has left: record 4 cannot be used") and bench.code == code
    third = bench.dogs[2].check()
    bench.dogs[2].leave(third.sentence, third.code)  # as its thread does; the first is slower
    assert bench.dogs[0].check().code == code


def test_one_that_leaves_at_once_tells_those_that_come_later(bench, monkeypatch):
    """A file that does not change any more would be taken for one of an earlier start."""
    late = []

    def sleep(seconds):
        bench.now += seconds
        if bench.now == 20:
            late.extend([bench.dog(0), bench.dog(2)])
        for dog in late:
            dog.send()

    monkeypatch.setattr(watchdog.time, "sleep", sleep)
    bench.dogs[1].leave("no file matches /data/*", 2)
    assert bench.now == 20 and "telling the other workers, for 60 s at most" in bench.told[0]
    for dog in late:
        assert dog.check().sentence.endswith("has left: no file matches /data/*")
        assert dog.check().code == 2
    before = bench.now
    bench.dog(1).leave("stopped", 75)  # nobody is kept waiting: the others will try again, too
    bench.dog(2).leave("no file matches /data/*", 2)  # they do not come at all
    assert bench.now == before + watchdog.LINGER_SECONDS


def test_one_that_is_started_anew_alone_is_no_longer_the_old_one(bench):
    """Its supervisor was quicker than the limit; a container even gives it its old number."""
    start(bench)
    bench.go(10, beating=(0, 2))
    bench.dogs[1] = bench.dog(1)
    wrong, now = bench.go(5)
    assert wrong.startswith("worker 1 (b:1) was started anew") and now == 14 and bench.code == 75


def test_one_that_is_done_may_fall_silent(bench, monkeypatch):
    monkeypatch.setattr(watchdog.time, "sleep", lambda seconds: setattr(bench, "now", 99.0))
    start(bench)
    bench.dogs[1].finish()
    assert bench.go(100, beating=(0, 2))[0] is None


def test_one_that_stalls_is_named(bench):
    start(bench)
    assert bench.go(800, working=(0,))[0] is None
    wrong, now = bench.go(2000, working=())
    assert wrong.startswith("worker 1 (b:1) and worker 2 (c:1) stalled") and now > 1700


def test_the_one_whose_input_stalls_is_named(bench):
    """All workers sit in the same call: no other can finish it without the stuck one."""
    start(bench)
    fed = {0: 41, 1: 40, 2: 41}
    for index, dog in enumerate(bench.dogs):
        dog.count_batches(lambda index=index: fed[index])
    wrong, _ = bench.go(2000, working=())
    assert wrong.startswith("worker 1 (b:1) stalled")


def test_a_network_that_stalls_is_nobodys_fault(bench):
    start(bench)
    wrong, _ = bench.go(2000, working=())
    assert wrong.startswith("no worker has made progress for 9")


def test_a_full_disk_makes_nobody_leave(bench, monkeypatch):
    start(bench)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.os, "write", full)
        assert bench.go(60)[0] is None
    assert len(bench.told) == 3 and "No space left on device" in bench.told[0]  # one a worker
    assert bench.go(5, beating=[0])[0] is None  # the first who can write again
    assert bench.go(60)[0] is None
    wrong, now = bench.go(60, beating=(0, 2))
    assert wrong.startswith("worker 1 (b:1) has not answered for 16 s") and now == 128 + 16


def test_a_heartbeat_overwrites_its_file_in_place(bench, tmp_path):
    start(bench)
    path = tmp_path / model_directory.WORKERS / "0.json"
    before = path.stat()
    bench.dogs[0].leave("x" * 5000, 1)
    after = path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert "has left: xxx" in bench.dogs[1].check().sentence


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"count": "x"}', "null"])
def test_a_file_that_says_nothing_is_no_sign_of_life(bench, tmp_path, content):
    start(bench)
    (tmp_path / model_directory.WORKERS / "1.json").write_text(content)
    assert "worker 1 (b:1) has not answered" in bench.go(60, beating=(0, 2))[0]


def test_storage_that_is_not_shared_is_said(bench):
    for dog in bench.dogs:
        dog.connected()
    wrong, _ = bench.go(60, beating=(0, 1))
    assert "no sign of it: --model_dir must be on storage that all workers share" in wrong
    assert wrong.startswith("worker 2") and bench.code == 2


def test_one_that_never_comes_is_told_and_then_named(bench):
    wrong, now = bench.go(1000, beating=(0, 1))
    assert bench.told == ["Waiting for worker 2 (c:1)."]
    assert bench.go(1, beating=(0, 1))[0] and len(bench.told) == 1
    assert wrong.startswith("worker 2 (c:1) has not come") and now == watchdog.START_SECONDS + 1


def test_workers_that_tensorflow_cannot_connect_do_not_wait_for_ever(bench):
    """All are alive: a wrong port, a firewall, a stranger on the port."""
    for dog in bench.dogs:
        dog.connecting("8 GPUs")
    assert bench.go(60, beating=(0, 1), working=())[0] is None  # the third is late
    wrong, now = bench.go(2000, working=())
    assert bench.told == [
        "Waiting for worker 2 (c:1).",
        "All workers are there, but TensorFlow has not connected them: each must reach the "
        "others' host:port, and no other process may hold its own.",
    ]
    assert wrong.startswith("TensorFlow has not connected the workers within 601 s")
    assert now == 61 + watchdog.START_SECONDS + 1 and bench.code == 75


def test_a_worker_with_fewer_devices_is_named(bench):
    """TensorFlow takes for granted that all have as many, and would wait."""
    for dog, count in zip(bench.dogs, (8, 7, 8), strict=True):
        assert bench.go(2, working=())[0] is None
        dog.connecting(f"{count} GPUs")
    wrong, _ = bench.go(2, working=())
    assert wrong == (
        "worker 1 (b:1) has 7 GPUs, others have 8 GPUs: mend that, or give --devices 7 to all"
    )
    assert bench.code == 2
    for dog in bench.dogs:
        dog.connected()
    assert bench.go(60)[0] is None  # it can, where it has done so


def test_a_worker_whose_gpu_is_not_seen_is_named(bench):
    for dog, has in zip(bench.dogs, ("1 GPU", "1 GPU", "1 CPU"), strict=True):
        dog.connecting(has)
    wrong, _ = bench.go(2, working=())
    assert wrong == (
        "worker 2 (c:1) has 1 CPU, others have 1 GPU: mend that, or hide the GPUs of all"
    )
    assert bench.code == 2


class Many:
    """Many workers that train, each with a clock of its own, and the number of files they read."""

    def __init__(self, folder, count, monkeypatch):
        (folder / model_directory.WORKERS).mkdir()
        self.now, self.reads, self.left = 0.0, 0, {}
        names = Cluster(tuple(f"h{i}:1" for i in range(count)), 0)
        how = pytest.fail, print, self.clock
        self.dogs = [
            Watchdog(folder, dataclasses.replace(names, index=i), LOST_SECONDS, *how)
            for i in range(count)
        ]
        own = cluster.Heartbeat.read

        def read(path):
            self.reads += 1
            return own(path)

        monkeypatch.setattr(cluster.Heartbeat, "read", read)
        self.go(2)
        for dog in self.dogs:
            dog.connected()

    def clock(self):
        return self.now

    def go(self, seconds, silent=(), idle=(), done=range(0)):
        for _ in range(seconds):
            self.now += 1
            for index, dog in enumerate(self.dogs):
                if index in silent or index in self.left:
                    continue
                dog.send()
                if index not in idle:
                    dog.progress()
                if verdict := dog.check():
                    dog._set_left(*verdict)
                    self.left[index] = (verdict.sentence, self.now)


@pytest.mark.parametrize("gone", [0, 1, 7, 15])
def test_a_worker_reads_as_many_files_however_many_there_are(tmp_path, monkeypatch, gone):
    """And all leave in time, with the name of the one that is gone."""
    reads = {}
    for count in (16, 32):
        (folder := tmp_path / str(count)).mkdir()
        with monkeypatch.context() as patch:
            many = Many(folder, count, patch)
            many.reads = 0
            many.go(5)
            reads[count] = many.reads / 5 - (count - 1)  # the chief reads all
            assert not many.left
            many.go(20, silent=(gone,))
            assert len(many.left) == count - 1
            name = f"worker {gone} (h{gone}:1) has not answered for"
            assert all(told.startswith(name) for told, _ in many.left.values())
            assert max(when for _, when in many.left.values()) <= 7 + LOST_SECONDS + 3
    assert reads[16] <= 4 * 15 and reads[32] <= 4 * 31


def test_one_that_stalls_far_away_is_named(tmp_path, monkeypatch):
    many = Many(tmp_path, 16, monkeypatch)
    many.go(3, idle=(9,))
    for _ in range(int(watchdog.STALL_SECONDS / 30) + 1):  # all wait for it
        many.now += 29
        for dog in many.dogs:
            dog._checked = many.now
        many.go(1, idle=range(16))
        if many.left:
            break
    assert {told.split(" stalled")[0] for told, _ in many.left.values()} == {"worker 9 (h9:1)"}


def test_what_an_earlier_start_left_is_no_sign_of_life(bench):
    bench.go(5)
    again = bench.dog(0)
    again.connected()
    for _ in range(20):
        bench.now += 1
        wrong = again.check()
    assert "no sign of it" in wrong.sentence


@pytest.mark.parametrize(
    ("code", "again"),
    [(0, False), (1, False), (2, False), (75, True), (137, True), (139, True)],
)
def test_the_documented_slurm_script(tmp_path, code, again):
    """Srun ends with the highest code of its tasks: 128 + 9 where one of them was killed."""
    text = (REPOSITORY / "docs" / "clusters.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL)
    for name, does in (
        ("srun", f'echo "$@" > {tmp_path}/given; exit {code}'),
        ("scontrol", 'echo "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    asked = re.findall(r"--\S+", " ".join(re.findall("^#SBATCH (.*)", script, re.MULTILINE)))
    assert {"--exclusive", "--mem=0", "--cpus-per-task=96"} < set(asked)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    environment["SLURM_CPUS_PER_TASK"] = "96"  # by sbatch; srun does not read it (since 22.05)

    def run(**more):
        line = ["bash", "-c", script]
        return subprocess.run(line, env=environment | more, capture_output=True, text=True)

    done = run()
    assert done.stdout == ("requeue 7\n" if again else "") and not done.stderr
    assert done.returncode == code
    assert "--cpus-per-task=96" in (tmp_path / "given").read_text().split()
    assert not run(SLURM_RESTART_COUNT="100").stdout  # a machine that kills each start
