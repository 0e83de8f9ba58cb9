"""A TSN model in ONNX Runtime: the outputs of `TSNModel` from `model.onnx` or `model_quantized.onnx`.

Needs only `onnxruntime`, so it also works where Optimum's ONNX package cannot be installed (transformers 5).
"""

import ctypes
import os
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Optional, cast

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput, cached_file

# From 1.29 on, ONNX Runtime reports its use to Microsoft from a thread of its own, and a forked process would wait for
# that thread forever when it exits. Read once, when the package is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime
except ImportError:  # needed by ONNX models only
    onnxruntime = None

OUTPUTS = ["topic_logits", "ner_logits", "sentiment_logits", "topic_sentiment_logits"]
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_QUANTIZER = "onnx.quantize"  # producer of the files that ONNX Runtime has quantized
_SESSIONS: "weakref.WeakSet[OnnxSession]" = weakref.WeakSet()  # every `OnnxSession` of this process


class TSNOnnxModel(nn.Module):
    """Runs an exported TSN model; `TSNPipeline` takes it like a `TSNModel`.

    Dynamic int8 scales activations by the range of the whole tensor that a matrix multiplication reads, so in a batch
    the answer for a text would depend on the texts beside it. A quantized model therefore runs each row alone, without
    padding, and several rows in parallel on threads: the answer for a text is the same, to the bit, in any batch.

    It can be pickled and copied, and answers in a forked process: it opens its file again there.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True,
                       model_kwargs={"onnx_file": "model_quantized.onnx"})
        ```

    Args:
        session: An [`OnnxSession`] or `onnxruntime.InferenceSession`.
        config: The model's `TSNConfig`.
        num_threads: Number of threads to compute with.

    Raises:
        ValueError: the graph's inputs or outputs are not those of a TSN model with these labels.
    """

    def __init__(self, session: Any, config: Any, num_threads: Optional[int] = None):
        super().__init__()
        self._onnx = session if isinstance(session, OnnxSession) else OnnxSession.of(session)
        self.config = config
        self.device, self.dtype = torch.device("cpu"), torch.float32  # of the tensors that go in and come out
        self.input_names = [value.name for value in self.session.get_inputs()]
        self._check_graph()
        self.quantized = _is_quantized(self.session)
        self._workers = num_threads or torch.get_num_threads()

    @property
    def session(self) -> Any:
        """The open `onnxruntime.InferenceSession` of this process."""
        return self._onnx.session

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        config: Any,
        onnx_file: str = "model_quantized.onnx",
        num_threads: Optional[int] = None,
        providers: Optional[list] = None,
        **hub: Any,
    ) -> "TSNOnnxModel":
        """Loads a file of the `onnx` folder of a checkpoint.

        Args:
            name_or_path: Folder or Hub id.
            config: The checkpoint's `TSNConfig`.
            onnx_file: Name of the file in that folder.
            num_threads: Number of threads to compute with; as many as torch uses by default.
            providers: ONNX Runtime's execution providers in order of preference; the CPU's by default.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, ...: as everywhere in transformers.

        Raises:
            ImportError: ONNX Runtime is not installed.
            OSError: the file does not exist or is not an ONNX model.
            ValueError: a parameter is out of range, or the graph does not fit the configuration.
        """
        if onnxruntime is None:
            raise ImportError("onnx_file needs ONNX Runtime: pip install onnxruntime")
        if not isinstance(onnx_file, str) or os.path.basename(onnx_file) != onnx_file or onnx_file[-5:] != ".onnx":
            raise ValueError(f"onnx_file must be the name of a .onnx file in the onnx folder, not {onnx_file!r}")
        if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
            raise ValueError(f"num_threads must be a whole number >= 1, not {num_threads!r}")
        providers = ["CPUExecutionProvider"] if providers is None else list(providers)
        available = onnxruntime.get_available_providers()
        for provider in providers:
            if (provider[0] if isinstance(provider, tuple) else provider) not in available:
                raise ValueError(
                    f"execution provider {provider!r} is not available; choose from {', '.join(available)}"
                )
        try:
            path = cast(str, cached_file(name_or_path, onnx_file, subfolder="onnx", **hub))
        except OSError as error:
            raise OSError(
                f"onnx/{onnx_file} of {name_or_path} could not be loaded ({error}). quantize.py writes ONNX files."
            ) from error
        threads = num_threads or torch.get_num_threads()
        with open(path, "rb") as file:  # the graph's producer, known before a session is built
            quantized = _QUANTIZER.encode() in file.read(64)
        # A quantized model runs rows in parallel, each on one thread.
        return cls(OnnxSession(path, 1 if quantized else threads, providers), config, threads)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the ONNX file, the configuration and the code that loads them.

        Args:
            save_directory: Folder; created if it does not exist. Load it with the same `onnx_file`.
            kwargs: Ignored: options of transformers for weights, which an ONNX file has inside.
        """
        folder = Path(save_directory)
        self._onnx.save(folder / "onnx")
        # The configuration's own code may lie in a folder of its own, without that of the model.
        self.config.save_code(folder, Path(__file__).parent)
        self.config.save_pretrained(folder)

    def _check_graph(self) -> None:
        names, outputs = set(self.input_names), {value.name: value.shape for value in self.session.get_outputs()}
        if "input_ids" not in names or names - _INPUTS:
            raise ValueError(f"the ONNX graph reads {', '.join(self.input_names)}: it is not that of a TSN model")
        sentiments = self.config.sentiment_labels
        for name, labels in zip(OUTPUTS, (self.config.topic_labels, self.config.ner_labels, sentiments, sentiments)):
            if name not in outputs:
                raise ValueError(
                    f"the ONNX graph gives {', '.join(outputs)}, not {', '.join(OUTPUTS)}: export it with quantize.py"
                )
            size = outputs[name][-1]
            if isinstance(size, int) and size != len(labels):
                raise ValueError(f"{name} of the ONNX graph has {size} labels, the configuration {len(labels)}")

    def can_generate(self) -> bool:  # pipelines ask every model
        return False

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> ModelOutput:
        """As `TSNModel.forward`, without labels.

        Args:
            input_ids, attention_mask, token_type_ids: `(batch, tokens)`, tensors or arrays.

        Returns:
            `ModelOutput` of `topic_logits` and `ner_logits`, `(batch, tokens, tags)`, `sentiment_logits`,
            `(batch, classes)`, and `topic_sentiment_logits`, `(batch, tokens, classes)`: tensors on the CPU. A
            quantized model returns 0 for padding on the right.
        """
        ids = _array(input_ids)  # (batch, tokens)
        mask = np.ones_like(ids) if attention_mask is None else _array(attention_mask)  # (batch, tokens)
        types = np.zeros_like(ids) if token_type_ids is None else _array(token_type_ids)  # (batch, tokens)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {name: inputs[name] for name in self.input_names}
        run = self._run_rows if self.quantized else self._run_batch
        return ModelOutput({name: torch.from_numpy(value) for name, value in zip(OUTPUTS, run(feed, mask))})

    def _run_batch(self, feed: dict, mask: np.ndarray) -> list:
        return self.session.run(OUTPUTS, feed)

    def _run_rows(self, feed: dict, mask: np.ndarray) -> list:
        lengths = (mask.shape[1] - (mask[:, ::-1] != 0).argmax(1)).tolist()  # up to the last token that is not padding
        waiting: SimpleQueue[int] = SimpleQueue()
        rows: list[Any] = [None] * len(lengths)
        session = self.session
        for i in range(len(lengths)):
            waiting.put(i)

        def work(_):
            while True:
                try:
                    i = waiting.get_nowait()
                except Empty:
                    return
                row = {name: values[i : i + 1, : lengths[i]] for name, values in feed.items()}  # (1, tokens)
                rows[i] = session.run(OUTPUTS, row)

        self._onnx.in_threads(work, self._workers)
        values = []
        for name, logits in zip(OUTPUTS, zip(*rows)):
            if name == "sentiment_logits":
                values.append(np.concatenate(logits))  # (batch, classes)
                continue
            padded = np.zeros((*mask.shape, logits[0].shape[-1]), dtype=np.float32)  # (batch, tokens, tags)
            for row, values_of_row in zip(padded, logits):
                row[: values_of_row.shape[1]] = values_of_row[0]
            values.append(padded)
        return values


class OnnxSession:
    """An ONNX Runtime session and threads to call it from, opened again where they cannot follow.

    Neither survives a fork or can be pickled, but what opens the session can: a path, or the file's content.

    Args:
        source: Path of the ONNX file, or its content.
        threads: Number of threads that one run computes with.
        providers: ONNX Runtime's execution providers in order of preference.
        session: One that is open already.
    """

    def __init__(self, source: str | bytes, threads: int, providers: list, session: Any = None):
        self._source, self._threads, self._providers = source, threads, providers
        # Part of the pickle, and so of the fingerprint by which data sets cache results: a new file is another model.
        self._version = _size_and_time(source) if isinstance(source, str) else None
        self._session = session
        self._pool: Optional[ThreadPoolExecutor] = None
        _SESSIONS.add(self)

    @classmethod
    def of(cls, session: Any) -> "OnnxSession":
        """That of an open `onnxruntime.InferenceSession`, such as Optimum's."""
        source: Any = getattr(session, "_model_path", None) or getattr(session, "_model_bytes", None)
        return cls(source, session.get_session_options().intra_op_num_threads, session.get_providers(), session)

    @property
    def session(self) -> Any:
        if self._session is None:
            self._session = open_session(self._source, self._threads, self._providers)
        return self._session

    def in_threads(self, function: Callable, count: int) -> None:
        """Calls a function with 0, 1, ... up to `count - 1`, each on a thread of its own; an error is raised here."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(count)
        list(self._pool.map(function, range(count)))

    def save(self, folder: Path) -> None:
        """Writes the ONNX file into a folder, under its name."""
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self._source, bytes):
            (folder / "model.onnx").write_bytes(self._source)
            return
        target = folder / Path(self._source).name
        if target.resolve() != Path(self._source).resolve():
            shutil.copyfile(self._source, target)

    def leave(self) -> None:
        """Forgets what a forked process inherited, without freeing it: that would wait for threads of the parent."""
        for inherited in (self._session, self._pool):
            if inherited is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        self._session = self._pool = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_session": None, "_pool": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        _SESSIONS.add(self)


def _leave_inherited() -> None:
    for session in list(_SESSIONS):
        session.leave()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_inherited)


def _is_quantized(session) -> bool:
    return session.get_modelmeta().producer_name == _QUANTIZER


def _size_and_time(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _array(values) -> np.ndarray:
    return torch.as_tensor(values).cpu().numpy().astype(np.int64, copy=False)


def open_session(path: str | bytes | os.PathLike, threads: int, providers=("CPUExecutionProvider",)) -> Any:
    """An ONNX Runtime session whose threads sleep while they wait.

    Raises:
        OSError: the file is not an ONNX model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the cores from tokenizing, decoding and other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        shown = "its content" if isinstance(path, bytes) else path
        raise OSError(f"{shown} could not be loaded as an ONNX model: {error}") from error
