"""The tasks of `tsn/scoring/workers.py` on a Ray cluster: Ray Data's `map_batches` with a pool of actors.

The machines share no disk with this one: the code goes to them as Ray's working directory, a model's folder through
Ray's object store, and results come back. A task whose actor is killed, or whose machine is lost, is given to another.
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
from tsn.scoring.workers import WorkerFailed, told

WINDOW_BYTES, MOST_BYTES = 2**25, 2**30  # of tasks, for each actor and for all
ATTEMPTS = 3  # Ray Data would send a task that kills its actor round for ever
_MODEL_FILES = {".json", ".txt", ".model", ".safetensors"}


def run_tasks(tasks, load, function, options, actors=None):
    """Yields `(key, function(load(*options), *arguments))` for each `(key, arguments)`, in the order of completion.

    Args:
        tasks: Iterable.
        load, function: As of `tsn.scoring.workers.run_tasks`.
        options: Of `load`; the first is the model, whose folder is sent if it is one, and the last the device.
        actors: How many, each with a core, and a GPU if the device is one; by default as many as there is room for.

    Raises:
        ImportError: Ray is not installed.
        WorkerFailed: the function raised something, or ended its actor as often as it was tried, or Ray failed.
    """
    with _cluster() as ray:
        gpus = int(options[-1] != "cpu")
        actors = actors or max(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)), 1)
        files = ray.put(_model_files(options[0]))
        worker = {"load": load, "function": function, "options": options, "files": files}
        # Ray Data reads what can be read again from any machine, and an iterator of this one cannot. So it is given
        # windows of tasks, which stay in the object store until all of the window are done.
        for keys, blocks in _windows(ray, tasks, min(actors * WINDOW_BYTES, MOST_BYTES)):
            for index, result, error in _map(ray, blocks, worker, min(actors, len(blocks)), gpus):
                if error is not None:
                    raise WorkerFailed(error)
                yield keys.pop(index), result
            if keys:
                raise WorkerFailed(f"Ray lost {len(keys)} tasks")
            del blocks  # before the next window is made


@contextmanager
def _cluster():
    """Ray, connected to what `RAY_ADDRESS` says, to a cluster that runs on this machine, or to one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--engine ray needs Ray: pip install -r requirements/cluster.txt ({error})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run is raised as well
    others = [f"/{path.name}" for path in ROOT.iterdir() if path.suffix != ".py" and path.name != "tsn"]
    code = {"working_dir": str(ROOT), "excludes": [*others, "__pycache__"]}
    with redirect_stdout(sys.stderr):  # where Ray tells of workers that died
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=code)
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield ray
        except ray.exceptions.RayError as error:
            raise WorkerFailed(f"Ray failed: {str(error).partition(os.linesep)[0]}") from error
        finally:
            ray.shutdown()


def _windows(ray, tasks, size):
    """Yields `(keys by index, blocks)` of tasks of so many bytes."""
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
    """Yields what `_Worker` answers to each block."""
    # The fewest are 1: idle actors have to make room for one that was lost with its machine.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
    node = ray.get_runtime_context().get_node_id()
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    begun = ray.remote(num_cpus=0, scheduling_strategy=here)(_Begun).remote()
    results = ray.data.from_arrow_refs(blocks).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={**worker, "begun": begun, "most_loading": actors + ATTEMPTS - 1},
        compute=pool,
        num_cpus=1,
        num_gpus=gpus,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for answer in batch["pickled"]:
            yield pickle.loads(answer.as_py())


class _Begun:
    """An actor beside the driver: counts how often a task was begun, which outlives the actor that began it, and, as
    `None`, the loadings that were begun and not ended."""

    def __init__(self):
        self.counts = Counter()

    def count(self, index, by=1):
        self.counts[index] += by
        return self.counts[index]


class _Worker:
    """An actor: loads a model, and answers a block of one task with one of `(index, result, error)`."""

    def __init__(self, load, function, options, files, begun, most_loading):
        import ray

        self.function, self.error = function, None
        self.count = lambda index, by=1: ray.get(begun.count.remote(index, by))
        if self.count(None) > most_loading:
            self.error = f"loading the model ended its worker {ATTEMPTS} times, as when memory runs out"
            return
        try:
            self.loaded = _load(load, options, ray.get(files))
        except Exception as error:  # told with the first task: Ray would send no more than a trace
            self.error = told(error)
        self.count(None, -1)

    def __call__(self, batch):
        index, arguments = pickle.loads(batch["pickled"][0].as_py())
        result, error = None, self.error
        if self.count(index) > ATTEMPTS:
            error = f"a task ended its worker {ATTEMPTS} times, as when memory runs out"
        if error is None:
            try:
                result = self.function(self.loaded, *arguments)
            except Exception as raised:
                error = told(raised)
        return _block(pickle.dumps((index, result, error)))


def _block(pickled):
    """A table of one cell: rows of mixed types, lone surrogates and bytes would not come through Arrow's types."""
    import pyarrow as pa

    return pa.table({"pickled": pa.array([pickled], pa.large_binary())})


def _model_files(model):
    """What a model's folder holds, by relative path; nothing if it is not a folder but an id on the Hub."""
    folder = Path(model)
    paths = [path for path in folder.glob("*") if path.suffix in _MODEL_FILES] + [*folder.glob("onnx/*")]
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
