"""What `onnx_tsn.py` and `openvino_tsn.py` share: a TSN model as the file of a graph that an inference engine runs."""

import ctypes
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, cast

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput, cached_file

OUTPUTS = ["topic_logits", "ner_logits", "sentiment_logits", "topic_sentiment_logits"]
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_FILES: "weakref.WeakSet[GraphFile]" = weakref.WeakSet()  # every `GraphFile` of this process


class TSNGraphModel(nn.Module):
    """An exported TSN model that an inference engine runs; `TSNPipeline` takes it like a `TSNModel`.

    Args:
        file: The [`GraphFile`] that is run.
        config: The model's `TSNConfig`.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs, each with its number of labels, or None where the graph does not say.

    Raises:
        ValueError: the graph's inputs or outputs are not those of a TSN model with these labels.
    """

    ENGINE, FOLDER = "", ""  # the format's name, and the folder of a checkpoint that holds such files
    forms_batches = False  # whether it forms the best batches on its own: the pipeline then passes many rows

    def __init__(self, file: Any, config: Any, inputs: list[str], outputs: dict[str, Any]):
        super().__init__()
        self._file = file
        self.config = config
        self.device, self.dtype = torch.device("cpu"), torch.float32  # of the tensors that go in and come out
        self.input_names = inputs
        self._check_graph(outputs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the graph's file, the configuration and the code that loads them.

        Args:
            save_directory: Folder; created if it does not exist. Load it with the same file name.
            kwargs: Ignored: options of transformers for weights, which the graph has inside.
        """
        folder = Path(save_directory)
        self._file.save(folder / self.FOLDER)
        # The configuration's own code may lie in a folder of its own, without that of the model.
        self.config.save_code(folder, Path(__file__).parent)
        self.config.save_pretrained(folder)

    def _check_graph(self, outputs: dict[str, Any]) -> None:
        graph, names = f"the {self.ENGINE} graph", set(self.input_names)
        if "input_ids" not in names or names - _INPUTS:
            raise ValueError(f"{graph} reads {', '.join(self.input_names)}: it is not that of a TSN model")
        sentiments = self.config.sentiment_labels
        for name, labels in zip(OUTPUTS, (self.config.topic_labels, self.config.ner_labels, sentiments, sentiments)):
            if name not in outputs:
                raise ValueError(f"{graph} gives {', '.join(outputs)}, not {', '.join(OUTPUTS)}: use quantize.py")
            size = outputs[name]
            if isinstance(size, int) and size != len(labels):
                raise ValueError(f"{name} of {graph} has {size} labels, the configuration {len(labels)}")

    def can_generate(self) -> bool:  # pipelines ask every model
        return False

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> ModelOutput:
        """As `TSNModel.forward`, without labels.

        Args:
            input_ids, attention_mask, token_type_ids: `(batch, tokens)`, tensors or arrays.

        Returns:
            `ModelOutput` of `topic_logits` and `ner_logits`, `(batch, tokens, tags)`, `sentiment_logits`,
            `(batch, classes)`, and `topic_sentiment_logits`, `(batch, tokens, classes)`: tensors on the CPU. What
            stands at padding on the right has no meaning.

        Raises:
            ValueError: `input_ids` is empty.
        """
        ids = _array(input_ids)  # (batch, tokens)
        if not ids.size:
            raise ValueError(f"input_ids of shape {ids.shape} hold no token")
        mask = np.ones_like(ids) if attention_mask is None else _array(attention_mask)  # (batch, tokens)
        types = np.zeros_like(ids) if token_type_ids is None else _array(token_type_ids)  # (batch, tokens)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        values = self._run({name: inputs[name] for name in self.input_names}, mask)
        return ModelOutput({name: torch.from_numpy(value) for name, value in zip(OUTPUTS, values)})

    def _run(self, feed: dict, mask: np.ndarray) -> list:
        """The arrays of `OUTPUTS`, from the `(batch, tokens)` arrays of the graph's inputs."""
        raise NotImplementedError

    def _side_by_side(self, run: Callable, feed: dict, batches: list, lengths: np.ndarray, shape: Any, threads: int):
        """The arrays of `OUTPUTS` of all rows, from batches that run at the same time, each on one thread.

        Args:
            run: Gives the arrays of `OUTPUTS` for the inputs of one batch.
            feed: The graph's inputs for all rows, `(rows, at least the longest length)` each.
            batches: Of each batch, the indices of its rows, a longest one first.
            lengths: `(rows,)` tokens that each row is run with at least.
            shape: `(rows, tokens)` of the outputs.
            threads: Batches at the same time.
        """

        def run_rows(rows):
            return run({name: values[rows, : lengths[rows[0]]] for name, values in feed.items()})

        return unite(batches, self._file.in_threads(run_rows, batches, threads), shape)


class GraphFile:
    """The file of a graph and what an engine opened of it, opened again where that cannot follow.

    Neither an engine's session nor its threads survive a fork or can be pickled, but what opens them can.

    Args:
        source: Path of the file, or its content.
        opened: What is open already.
    """

    def __init__(self, source: str | bytes, opened: Any = None):
        self._source = source
        # Part of the pickle, and so of the fingerprint by which data sets cache results: a new file is another model.
        self._version = [_size_and_time(path) for path in self.paths()]
        self._opened = opened
        self._pool: Optional[ThreadPoolExecutor] = None
        _FILES.add(self)

    def paths(self) -> list[str]:
        """The files; none if the graph came as bytes."""
        return [self._source] if isinstance(self._source, str) else []

    def open(self) -> Any:
        raise NotImplementedError

    @property
    def opened(self) -> Any:
        if self._opened is None:
            self._opened = self.open()
        return self._opened

    def in_threads(self, function: Callable, items: Sequence, count: int) -> list:
        """What a function returns for each item, computed on so many threads; an error is raised here."""
        if count == 1 or len(items) == 1:
            return list(map(function, items))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(count)
        waiting, results = iter(range(len(items))), [None] * len(items)

        def work(_):  # one task a thread: a task an item takes a while to hand out
            for i in waiting:
                results[i] = function(items[i])

        list(self._pool.map(work, range(min(count, len(items)))))
        return results

    def save(self, folder: Path) -> None:
        """Writes the files into a folder, under their names."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in map(Path, self.paths()):
            target = folder / path.name
            if target.resolve() != path.resolve():
                shutil.copyfile(path, target)

    def leave(self) -> None:
        """Forgets what a forked process inherited."""
        for inherited in (self._opened, self._pool):
            if inherited is not None:  # when it ends, it may wait for threads of the parent
                keep_forever(inherited)
        self._opened = self._pool = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None, "_pool": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        _FILES.add(self)


def keep_forever(value: Any) -> None:
    """Lets an object live as long as the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def row_lengths(mask: np.ndarray) -> np.ndarray:
    """`(batch,)` tokens of each row up to the last that is not padding, from a `(batch, tokens)` mask."""
    return mask.shape[1] - (mask[:, ::-1] != 0).argmax(1)


def batches_by_length(
    lengths: np.ndarray, most_rows: int, most_tokens: Optional[int] = None, shortest: float = 0.75
) -> Iterator[np.ndarray]:
    """Yields the indices of the rows of each batch, the longest rows first.

    With few rows, of all lengths, padding would be most of a batch, so none of its rows is shorter than a share of its
    longest.

    Args:
        lengths: `(rows,)` tokens of each row.
        most_rows: Rows of a batch at most.
        most_tokens: Tokens of a batch at most, padding included, but for a longer row, which is a batch alone.
        shortest: That share, from 0 to 1.
    """
    order = np.argsort(-lengths, kind="stable")  # (rows,)
    falling, first = -lengths[order], 0  # (rows,) ascending
    while first < len(order):
        size = min(most_rows, np.searchsorted(falling, shortest * falling[first], side="right") - first)
        if most_tokens is not None:
            size = min(size, max(most_tokens // -falling[first], 1))
        yield order[first : first + size]
        first += size


def unite(batches: list[np.ndarray], outputs: list[list[np.ndarray]], shape: tuple[int, int]) -> list[np.ndarray]:
    """The arrays of `OUTPUTS` of all rows; zeros stand behind a row that its batch had no token of.

    Args:
        batches: Of each batch, the indices of its rows.
        outputs: Of each batch, its arrays; more tokens than `shape` has are padding.
        shape: `(rows, tokens)` of all.
    """
    united = []
    for parts in zip(*outputs):
        *tokens, labels = parts[0].shape[1:]
        whole = np.zeros((*shape[: 1 + len(tokens)], labels), dtype=np.float32)  # (rows, tokens, labels), or without
        for rows, logits in zip(batches, parts):
            if tokens:
                whole[rows, : logits.shape[1]] = logits[:, : shape[1]]
            else:
                whole[rows] = logits
        united.append(whole)
    return united


def _leave_inherited() -> None:
    for file in list(_FILES):
        file.leave()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_inherited)


def graph_file(name_or_path: Any, option: str, file: Any, suffix: str, folder: str, **hub: Any) -> str:
    """Path of a graph of a checkpoint, fetched from the Hub if it is not here.

    Args:
        name_or_path: Folder or Hub id.
        option: The option that names the file, for errors.
        file: Name of the file.
        suffix: How its name must end.
        folder: Folder of the checkpoint that holds it.
        hub: As in `TSNOnnxModel.from_pretrained`.

    Raises:
        ValueError: it is not a file name.
        OSError: the file does not exist.
    """
    if not isinstance(file, str) or os.path.basename(file) != file or not file.endswith(suffix):
        raise ValueError(f"{option} must be the name of a {suffix} file in the {folder} folder, not {file!r}")
    try:
        return cast(str, cached_file(name_or_path, file, subfolder=folder, **hub))
    except OSError as error:
        raise OSError(
            f"{folder}/{file} of {name_or_path} could not be loaded ({error}). quantize.py writes such files."
        ) from error


def check_num_threads(count: Any) -> None:
    """Raises `ValueError` if a number of threads is neither None nor a whole number from 1."""
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError(f"num_threads must be a whole number >= 1, not {count!r}")


def _size_and_time(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _array(values) -> np.ndarray:
    return torch.as_tensor(values).cpu().numpy().astype(np.int64, copy=False)
