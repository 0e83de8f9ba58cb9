"""`tsn/scoring/workers.py`: every task is answered, and whoever is killed, nothing hangs or is left behind."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.scoring.worker_tasks import answer, load
from tsn.paths import ROOT
from tsn.scoring.workers import WorkerFailed, WorkerKilled, run_tasks

LARGE = b"x" * 8_000_000  # more than a pipe holds: sending it takes until the worker reads it


@pytest.mark.parametrize("workers", [1, 2])
def test_each_task_is_answered_with_its_key(workers):
    tasks = [(f"key {i}", (i, LARGE if i % 3 == 0 else b"small")) for i in range(12)]
    results = dict(run_tasks(tasks, load, answer, ("a", "b"), workers))
    assert results.keys() == {key for key, _ in tasks}
    for key, (number, content) in tasks:
        assert results[key][0] == ("a", "b") and results[key][1] == number * 2 and results[key][3] == content[:10]
    assert len({pid for *_, pid, _ in results.values()}) == workers
    assert (os.getpid() in {pid for *_, pid, _ in results.values()}) == (workers == 1)


def test_no_task_is_taken_before_a_worker_is_idle():
    taken = []

    def tasks():
        for i in range(10):
            taken.append(i)
            yield i, (i,)

    for done, _ in enumerate(run_tasks(tasks(), load, answer, (), 2)):
        assert len(taken) <= done + 3  # two workers, and the task that waits for one of them


@pytest.mark.parametrize(
    "options, number, message", [(("broken",), 1, "no such model"), ((), 13, "KeyError: 'unlucky'")]
)
def test_an_exception_comes_back_as_its_message(options, number, message):
    with pytest.raises(WorkerFailed) as error:
        list(run_tasks([(0, (number,))], load, answer, options, 2))
    assert str(error.value) == message


def test_a_worker_that_is_killed_is_noticed():
    with pytest.raises(WorkerKilled):
        list(run_tasks([(i, (99 if i == 5 else i, LARGE)) for i in range(10)], load, answer, (), 2))


def test_workers_of_a_killed_parent_end():
    """Also those that are in the middle of a task."""
    code = (
        "from tests.scoring.worker_tasks import load, sleep\n"
        "from tsn.scoring.workers import run_tasks\n"
        "for _ in run_tasks([(i, (3600,)) for i in range(9)], load, sleep, (), 2): pass"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    workers = []
    while len(workers) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
        children = psutil.Process(parent.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    time.sleep(1)
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]
