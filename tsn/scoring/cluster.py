"""Runs the tasks of `tsn/scoring/workers.py` on a Ray cluster: Ray Data's `map_batches` with a pool of actors.

The machines share no disk with this one: the code reaches them as Ray's working directory, a model folder through
Ray's object store, and results come back. A task whose actor is killed, or whose machine is lost, goes to another one.
"""

import logging
import os
import pickle
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from tsn.paths import ROOT
from tsn.scoring.workers import WorkerFailed, error_message

WINDOW_BYTES, MOST_BYTES = 2**25, 2**30  # of tasks in the object store: per actor, and in all
# Ray Data would repeat a task that kills its actor for ever, so attempts are counted here. `ActorPool` with
# `max_task_retries` lost a run with its machine: each failed reconnection to the lost actor cost one of the retries.
ATTEMPTS = 3
_MODEL_FILES = {".json", ".txt", ".model", ".safetensors"}


def run_tasks(tasks, load, function, options, actors=None):
    """Yields `(key, function(load(*options), *arguments))` for each `(key, arguments)`, in order of completion.

    Args:
        tasks: Iterable.
        load, function: As in `tsn.scoring.workers.run_tasks`.
        options: Arguments of `load`; the first is the model, which is sent if it is a folder, and the last the device.
        actors: Number of actors, each with a core, and with a GPU unless the device is the CPU. Default: as many as
            the cluster has room for.

    Raises:
        ImportError: Ray is not installed.
        WorkerFailed: the function raised an exception or killed its actor on every attempt, or Ray failed.
    """
    with _cluster() as ray:
        gpus = int(options[-1] != "cpu")
        actors = actors or max(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)), 1)
        files = ray.put(_model_files(options[0]))
        worker = {"load": load, "function": function, "options": options, "files": files}
        # Ray Data wants input that any machine can read again, which an iterator is not. So it gets windows of tasks,
        # which stay in the object store until the whole window is done.
        for keys, blocks in _windows(ray, tasks, min(actors * WINDOW_BYTES, MOST_BYTES)):
            for index, result, error in _map(ray, blocks, worker, min(actors, len(blocks)), gpus):
                if error is not None:
                    raise WorkerFailed(error)
                yield keys.pop(index), result
            if keys:
                raise WorkerFailed(f"Ray lost {len(keys)} tasks")
            del blocks  # frees them before the next window is made


@contextmanager
def _cluster():
    """Connects Ray to the cluster at `RAY_ADDRESS` or on this machine, or starts one for the run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--engine ray needs Ray: pip install -r requirements/cluster.txt ({error})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors that end a run are raised as well
    others = [f"/{path.name}" for path in ROOT.iterdir() if path.suffix != ".py" and path.name != "tsn"]
    code = {"working_dir": str(ROOT), "excludes": [*others, "__pycache__"]}
    with redirect_stdout(sys.stderr):  # Ray prints about workers that died
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=code)
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield ray
        except ray.exceptions.RayError as error:
            raise WorkerFailed(f"Ray failed: {str(error).partition(os.linesep)[0]}") from error
        finally:
            ray.shutdown()


def _windows(ray, tasks, size):
    """Yields `(keys by index, blocks)` for every `size` bytes of tasks."""
    keys, blocks, held = {}, [], 0
    for key, arguments in tasks:
        task = pickle.dumps((len(blocks), arguments))
        keys[len(blocks)] = key
        blocks.append(ray.put(_block(task)))
        held += len(task)
        if held >= size:
            yield keys, blocks
            keys, blocks, held = {}, [], 0
    if blocks:
        yield keys, blocks


def _map(ray, blocks, worker, actors, gpus):
    """Yields a [`_Worker`]'s `(index, result, error)` for each block."""
    # The minimum is 1: idle actors have to make room for one that was lost with its machine.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
    node = ray.get_runtime_context().get_node_id()
    this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    attempts = ray.remote(num_cpus=0, scheduling_strategy=this_node)(_Attempts).remote()
    results = ray.data.from_arrow_refs(blocks).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={**worker, "attempts": attempts, "most_loading": actors + ATTEMPTS - 1},
        compute=pool,
        num_cpus=1,
        num_gpus=gpus,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for answer in batch["pickled"]:
            yield pickle.loads(answer.as_py())


class _Attempts:
    """An actor beside the driver that outlives those it counts for: how often each task was begun and, under None,
    how many loads were begun and not finished."""

    def __init__(self):
        self.counts = Counter()

    def count(self, index, by=1):
        self.counts[index] += by
        return self.counts[index]


class _Worker:
    """An actor that loads the model and turns a block of one task into a block of `(index, result, error)`."""

    def __init__(self, load, function, options, files, attempts, most_loading):
        import ray

        self.function, self.error = function, None
        self.count = lambda index, by=1: ray.get(attempts.count.remote(index, by))
        if self.count(None) > most_loading:
            self.error = f"loading the model killed its worker {ATTEMPTS} times, perhaps for lack of memory"
            return
        try:
            self.loaded = _load(load, options, ray.get(files))
        except Exception as error:  # returned with the first task: raised here, Ray would only print a trace
            self.error = error_message(error)
        self.count(None, -1)

    def __call__(self, batch):
        index, arguments = pickle.loads(batch["pickled"][0].as_py())
        result, error = None, self.error
        if self.count(index) > ATTEMPTS:
            error = f"a task killed its worker {ATTEMPTS} times, perhaps for lack of memory"
        if error is None:
            try:
                result = self.function(self.loaded, *arguments)
            except Exception as raised:
                error = error_message(raised)
        return _block(pickle.dumps((index, result, error)))


def _block(pickled):
    """A table of one pickled cell: mixed types, lone surrogates and bytes do not survive Arrow's own types."""
    import pyarrow as pa

    return pa.table({"pickled": pa.array([pickled], pa.large_binary())})


def _model_files(model):
    """Returns the content of a model folder by relative path; nothing for an id on the Hub."""
    folder = Path(model)
    paths = [path for path in folder.glob("*") if path.suffix in _MODEL_FILES] + [
        *folder.glob("onnx/*"),
        *folder.glob("openvino/*"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def _load(load, options, files):
    if not files:
        return load(*options)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return load(folder, *options[1:])
