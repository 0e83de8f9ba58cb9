"""A TSN model in OpenVINO: the outputs of `TSNModel` from `model.xml` or `model_quantized.xml` and its `.bin`.

Needs `openvino`, and an x86-64 or ARM processor.
"""

import os
import sys
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Optional

import numpy as np
import torch

try:
    from .graph_tsn import OUTPUTS, GraphFile, TSNGraphModel, check_num_threads, graph_file, keep_forever, row_lengths
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from graph_tsn import OUTPUTS, GraphFile, TSNGraphModel, check_num_threads, graph_file, keep_forever, row_lengths

MOST_ROWS = 32
SHORT, STEP = 48, 8
"""Rows are padded to a multiple of `STEP` tokens, those of more than `SHORT` tokens to a multiple of twice as many,
and run with those of the same length, at most `MOST_ROWS` at once.

OpenVINO prepares its kernels again for every new shape, so there should be few; and its attention takes as long for
56 tokens as for 64. Sums over the same number of tokens are rounded alike: a row gives the same answer, to the bit,
beside any others.
"""
_ONE_AT_A_TIME = Lock()  # threads, through what OpenVINO does in a process only once
_PRECISIONS = {"None": "f32", "auto": "f32", "float32": "f32", "bfloat16": "bf16"}


class TSNOpenVinoModel(TSNGraphModel):
    """Runs an exported TSN model in OpenVINO; `TSNPipeline` takes it like a `TSNModel`.

    The scales of its int8 model are fixed, so that texts are run in batches, several batches in parallel, each on one
    thread: the answer for a text is the same, to the bit, in any batch.

    It can be pickled and copied, and answers in a forked process: it opens its files again there.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True,
                       model_kwargs={"openvino_file": "model_quantized.xml"})
        ```

    Args:
        network: An [`OpenVinoNetwork`].
        config: The model's `TSNConfig`.

    Raises:
        ValueError: the graph's inputs or outputs are not those of a TSN model with these labels.
    """

    ENGINE, FOLDER, forms_batches = "OpenVINO", "openvino", True

    def __init__(self, network: "OpenVinoNetwork", config: Any):
        compiled, _ = network.opened
        outputs = {port.any_name: port.partial_shape[-1] for port in compiled.outputs}
        outputs = {name: size.get_length() if size.is_static else None for name, size in outputs.items()}
        super().__init__(network, config, [port.any_name for port in compiled.inputs], outputs)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        config: Any,
        openvino_file: str = "model_quantized.xml",
        num_threads: Optional[int] = None,
        dtype: Any = None,
        **hub: Any,
    ) -> "TSNOpenVinoModel":
        """Loads a file of the `openvino` folder of a checkpoint, and the `.bin` of the same name.

        Args:
            name_or_path: Folder or Hub id.
            config: The checkpoint's `TSNConfig`.
            openvino_file: Name of the `.xml` file in that folder.
            num_threads: Number of threads to compute with; as many as torch uses by default.
            dtype: `torch.bfloat16` (or its name) computes a model in fp32 in bfloat16, on processors that have it:
                faster with AMX, slower with AVX-512 BF16 alone, and less exact. Default: float32, also where OpenVINO
                would choose bfloat16.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, ...: as everywhere in transformers.

        Raises:
            ImportError: OpenVINO is not installed.
            OSError: a file does not exist or is not an OpenVINO model.
            ValueError: a parameter is out of range, or the graph does not fit the configuration.
        """
        check_num_threads(num_threads)
        precision = _precision(dtype)
        path = graph_file(name_or_path, "openvino_file", openvino_file, ".xml", cls.FOLDER, **hub)
        weights = f"{openvino_file.removesuffix('.xml')}.bin"
        graph_file(name_or_path, "openvino_file", weights, ".bin", cls.FOLDER, **hub)  # comes to lie beside it
        return cls(OpenVinoNetwork(path, num_threads or torch.get_num_threads(), precision), config)

    def _run(self, feed: dict, mask: np.ndarray) -> list:
        lengths = _padded(row_lengths(mask), self.config.max_tokens)  # (batch,)
        padding = ((0, 0), (0, max(lengths.max() - mask.shape[1], 0)))
        feed = {name: np.pad(values, padding) for name, values in feed.items()}  # (batch, padded tokens)
        batches = list(_batches(lengths))
        return self._side_by_side(self._file.run, feed, batches, lengths, mask.shape, self._file.threads)


class OpenVinoNetwork(GraphFile):
    """A compiled OpenVINO model, for calls from any thread.

    Args:
        source: Path of the `.xml` file; its `.bin` lies beside it.
        threads: Number of calls that are computed at the same time, each on one thread.
        precision: `"f32"` or `"bf16"`.
    """

    def __init__(self, source: str, threads: int, precision: str):
        self.threads, self._precision = threads, precision
        super().__init__(source)

    def paths(self) -> list[str]:
        return [self._source, f"{self._source.removesuffix('.xml')}.bin"]

    def open(self) -> Any:
        """`(compiled model, its idle requests)`."""
        return compile_network(self._source, self.threads, self._precision), SimpleQueue()

    def run(self, feed: dict) -> list[np.ndarray]:
        """The arrays of `OUTPUTS` for arrays of the graph's inputs, by name."""
        compiled, idle = self.opened
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        request.infer(feed, share_inputs=True)
        values = [request.get_tensor(name).data.copy() for name in OUTPUTS]
        idle.put(request)
        return values


def compile_network(path: str | os.PathLike, threads: int, precision: str) -> Any:
    """Compiles an OpenVINO model for the CPU.

    Args:
        path: The `.xml` file; its `.bin` lies beside it.
        threads: Number of runs at the same time, each on one thread.
        precision: `"f32"` or `"bf16"`.

    Raises:
        ImportError: OpenVINO is not installed.
        OSError: the files are not an OpenVINO model.
        ValueError: the processor does not compute in this precision, or the model is int8 and the rest not float32.
    """
    core = openvino_core()
    if precision.upper() not in ("F32", *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        raise ValueError("this processor does not compute in bfloat16: leave dtype out")
    options = {
        "INFERENCE_PRECISION_HINT": precision,  # left out, some processors would silently compute in bfloat16
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "ENABLE_CPU_PINNING": False,  # several processes would all be bound to the first cores
    }
    try:
        model = core.read_model(path)
        quantized = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        if precision != "f32" and quantized:  # rounding twice costs five points of the entities' F1
            raise ValueError("an int8 model computes the rest in float32: leave dtype out, or load the fp32 model.xml")
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise OSError(f"{path} could not be loaded as an OpenVINO model: {error}") from error


def openvino_core() -> Any:
    """OpenVINO's `Core`, one for this process, without its telemetry.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    # `import openvino` reports to Google Analytics by this package, unless it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ImportError("openvino_file needs OpenVINO: pip install openvino") from error
    with _ONE_AT_A_TIME:
        return _core(openvino, os.getpid())  # a forked process needs its own


@cache
def _core(openvino: Any, process: int) -> Any:
    # What every run calls. When two threads are the first to call it, both may wait forever: one for the GIL, the
    # other, which holds that, for the one to look up NumPy's functions (a static variable of pybind11).
    openvino.Type.f32.to_dtype()
    # Each one lends the thread that made it a stack for signal handlers. When several end, in another order than they
    # began, that stack is memory given back: the next signal, such as Ctrl+C, would be a segmentation fault.
    core = openvino.Core()
    keep_forever(core)
    return core


def _padded(lengths: np.ndarray, most: Optional[int]) -> np.ndarray:
    """The numbers of tokens that rows are padded to: no more than the encoder has positions for."""
    step = np.where(lengths > SHORT, 2 * STEP, STEP)  # (batch,)
    padded = -(-lengths // step) * step  # (batch,)
    return padded if most is None else np.maximum(np.minimum(padded, most), lengths)


def _batches(lengths: np.ndarray):
    """Yields indices of rows of the same length, each time a power of 2 of them: few sizes are few shapes."""
    for length in np.unique(lengths)[::-1]:  # the longest first, which keeps all threads busy to the end
        rows = np.flatnonzero(lengths == length)
        while len(rows):
            size = min(MOST_ROWS, 1 << len(rows).bit_length() - 1)
            yield rows[:size]
            rows = rows[size:]


def _precision(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in _PRECISIONS:
        raise ValueError(f"dtype of an OpenVINO model must be float32 or bfloat16, not {dtype!r}")
    return _PRECISIONS[name]
