"""Sweeps that run: what fails alone, what is not done again, and what is left when one is stopped or killed."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from sweep_files import write

from toolchain.cli import run as snnc

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

from toolchain.sweep import cluster, plan, work  # noqa: E402


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster that runs already, in this process."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    options["scheduler_kwargs"] = {"dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(protocol="tcp", host="127.0.0.1", **options) as made:
        yield made.scheduler_address


def rows(folder):
    with (folder / "table.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_failing_point_is_a_row_and_the_same_command_does_what_is_left(tmp_path, scheduler, capsys):
    text = 'targets = ["loihi", "xylo"]\nsamples = 50\n[vary]\n"train.epochs" = [1, 0]'
    path, out = write(tmp_path, text), tmp_path / "out"
    command = ["sweep", str(path), "-o", str(out), "--scheduler", scheduler, "--picture", "svg"]
    assert snnc(command) == 1
    found = rows(out)
    assert len(found) == 4
    good = [row for row in found if not row["error"]]
    assert [(row["target"], row["train.epochs"]) for row in good] == [("loihi", "1")]
    for row in good:
        figures = json.loads((out / row["folder"] / "figures.json").read_text())
        report = json.loads((out / row["folder"] / "build" / "report.json").read_text())
        assert float(row["accuracy"]) == figures["accuracy"]
        assert int(row["cores"]) == len(report["cores"])
        assert float(row["kib"]) == report["totals"]["memory"]["kib"]
        assert int(row["samples"]) == 50
    assert sum("[train] epochs; got: 0" in row["error"] for row in found) == 2
    (large,) = (row for row in found if "does not fit xylo" in row["error"])
    assert "inputs of a chip" in (out / large["folder"] / "error.txt").read_text()
    assert "3 of 4 points failed" in capsys.readouterr().err
    assert (out / "pareto.svg").exists()

    times = {path: path.stat().st_mtime_ns for path in out.rglob("figures.json")}
    write(tmp_path, 'targets = ["loihi", "loihi2"]\nsamples = 50\nseeds = [0, 1]\n[vary]\n"train.epochs" = [1]')
    assert snnc(command) == 0
    assert [row["error"] for row in rows(out)] == [""] * 4
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert snnc([*command, "--dry-run"]) == 0
    assert "4 points of 2 trainings, 4 done" in capsys.readouterr().out


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert snnc(["sweep", str(write(tmp_path, 'targets = ["loihi"]')), "-o", str(tmp_path / "mine")]) == 1
    assert "no folder of a sweep" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 2.0)
    command = ["sweep", str(write(tmp_path, 'targets = ["loihi"]')), "-o", str(tmp_path / "out")]
    assert snnc([*command, "--scheduler", "tcp://127.0.0.1:9"]) == 3
    assert "no scheduler answers" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_job_alone(tmp_path):
    """The first training never ends; its worker is killed whenever it is at it."""
    sweep = plan.load(write(tmp_path, 'targets = ["loihi"]\n[vary]\n"train.epochs" = [100000, 1]'))
    jobs = [work.training_job(tmp_path, training, None) for training in sweep.trainings]
    endless, outcomes, killed = tmp_path / sweep.trainings[0].label / "run" / "recipe.toml", {}, set()
    with cluster.connected(None, 1) as client:
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
            assert set(listening) <= {"127.0.0.1"}

        def kill(running, waiting):
            if endless.exists() and not outcomes:
                for pid in client.run(os.getpid).values():
                    killed.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        def done(job, outcome):
            outcomes[job.label] = outcome
            return ()

        cluster.work_off(client, jobs, done, kill)
    first, second = (outcomes[job.label] for job in jobs)
    assert len(killed) == cluster.FAILURES + 1
    assert "worker died 2 times" in first.error
    assert second.error is None
    assert (tmp_path / sweep.trainings[1].label / "run" / "model.pt").exists()


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_from_its_checkpoint(tmp_path, scheduler):
    path, out = write(tmp_path, 'targets = ["loihi"]\nsamples = 20\n[vary]\n"train.epochs" = [150]'), tmp_path / "out"
    command = [sys.executable, "-m", "toolchain.cli", "sweep", str(path), "-o", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    label = plan.load(path).trainings[0].label
    deadline = time.monotonic() + 120
    while not (out / label / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "the same command continues from here" in error
    assert not (out / label / "run" / "model.pt").exists()
    first = (out / label / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert snnc(["sweep", str(path), "-o", str(out), "--scheduler", scheduler, "--picture", "none"]) == 0
    # It holds the seconds of the first epoch, which no second start would repeat.
    assert (out / label / "run" / "metrics.jsonl").read_text().splitlines()[0] == first
    assert [row["error"] for row in rows(out)] == [""]
