"""A TSN model in ONNX Runtime: the outputs of `TSNModel` from `model.onnx` or `model_quantized.onnx`.

Needs only `onnxruntime`, so it also works where Optimum's ONNX package cannot be installed (transformers 5).
"""

import os
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

try:
    from .graph_tsn import (
        OUTPUTS,
        GraphFile,
        TSNGraphModel,
        batches_by_length,
        check_num_threads,
        graph_file,
        row_lengths,
    )
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from graph_tsn import (
        OUTPUTS,
        GraphFile,
        TSNGraphModel,
        batches_by_length,
        check_num_threads,
        graph_file,
        row_lengths,
    )

# From 1.29 on, ONNX Runtime reports its use to Microsoft from a thread of its own, and a forked process would wait for
# that thread forever when it exits. Read once, when the package is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime
except ImportError:  # needed by ONNX models only
    onnxruntime = None

_QUANTIZER = "onnx.quantize"  # producer of the files that ONNX Runtime has quantized
BATCH_TOKENS = 384  # of a batch on one thread: what it computes with still fits the cache of a core


class TSNOnnxModel(TSNGraphModel):
    """Runs an exported TSN model in ONNX Runtime; `TSNPipeline` takes it like a `TSNModel`.

    On the CPU it forms small batches and runs them side by side, each on one thread: faster than one after the other
    on all threads. Dynamic int8 scales activations by the range of the whole tensor that a matrix multiplication
    reads, so in a batch the answer for a text would depend on the texts beside it. A quantized model therefore runs
    each row alone, without padding: the answer for a text is the same, to the bit, in any batch.

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

    ENGINE, FOLDER = "ONNX", "onnx"

    def __init__(self, session: Any, config: Any, num_threads: Optional[int] = None):
        file = session if isinstance(session, OnnxSession) else OnnxSession.of(session)
        outputs = {value.name: value.shape[-1] for value in file.session.get_outputs()}
        super().__init__(file, config, [value.name for value in file.session.get_inputs()], outputs)
        self.quantized = _is_quantized(self.session)
        self.forms_batches = self.quantized or file.on_one_thread
        self._workers = num_threads or torch.get_num_threads()

    @property
    def session(self) -> Any:
        """The open `onnxruntime.InferenceSession` of this process."""
        return self._file.session

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
        check_num_threads(num_threads)
        providers = ["CPUExecutionProvider"] if providers is None else list(providers)
        available = onnxruntime.get_available_providers()
        for provider in providers:
            if (provider[0] if isinstance(provider, tuple) else provider) not in available:
                raise ValueError(
                    f"execution provider {provider!r} is not available; choose from {', '.join(available)}"
                )
        path = graph_file(name_or_path, "onnx_file", onnx_file, ".onnx", cls.FOLDER, **hub)
        threads = num_threads or torch.get_num_threads()
        with open(path, "rb") as file:  # the graph's producer, known before a session is built
            quantized = _QUANTIZER.encode() in file.read(64)
        one = quantized or providers == ["CPUExecutionProvider"]  # several runs side by side, each on one thread
        return cls(OnnxSession(path, 1 if one else threads, providers), config, threads)

    def _run(self, feed: dict, mask: np.ndarray) -> list:
        if not self.forms_batches:
            return self.session.run(OUTPUTS, feed)
        lengths = row_lengths(mask)  # (batch,) what stands behind is padding: zeros in the outputs
        each = 1 if self.quantized else -(-len(lengths) // self._workers)  # rows at most: no thread is left without
        batches = list(batches_by_length(lengths, each, BATCH_TOKENS))
        return self._side_by_side(
            partial(self.session.run, OUTPUTS), feed, batches, lengths, mask.shape, self._workers
        )


class OnnxSession(GraphFile):
    """An ONNX Runtime session and threads to call it from.

    Args:
        source: Path of the ONNX file, or its content.
        threads: Number of threads that one run computes with.
        providers: ONNX Runtime's execution providers in order of preference.
        session: One that is open already.
    """

    def __init__(self, source: str | bytes, threads: int, providers: list, session: Any = None):
        self._threads, self._providers = threads, providers
        super().__init__(source, session)

    @classmethod
    def of(cls, session: Any) -> "OnnxSession":
        """That of an open `onnxruntime.InferenceSession`, such as Optimum's."""
        source: Any = getattr(session, "_model_path", None) or getattr(session, "_model_bytes", None)
        return cls(source, session.get_session_options().intra_op_num_threads, session.get_providers(), session)

    def open(self) -> Any:
        return open_session(self._source, self._threads, self._providers)

    @property
    def session(self) -> Any:
        return self.opened

    @property
    def on_one_thread(self) -> bool:
        """Whether one run takes one thread of the CPU, so that several run side by side."""
        return self._threads == 1 and self._providers == ["CPUExecutionProvider"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        if isinstance(self._source, bytes):
            (folder / "model.onnx").write_bytes(self._source)


def _is_quantized(session) -> bool:
    return session.get_modelmeta().producer_name == _QUANTIZER


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
