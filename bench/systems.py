"""TSN's own systems: the public pipeline on each engine, and the bare model, which is the limit of its speed."""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import torch
from transformers import AutoTokenizer

from chunking_tsn import encode_chunks, token_limit
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline

ONNX_FILES = {"onnx": "model.onnx", "int8": "model_quantized.onnx"}
BATCH_SIZE = 32  # chunks of a forward pass through the pipeline
BATCH_SIZES = (1, 4, 8, 16, 32, 64)  # those tried for the bare model

# How the bare model runs: `batch_size` rows at a time on all threads, or, `side_by_side`, each batch on one thread.
Way = namedtuple("Way", ["batch_size", "side_by_side"])


def load_tsn(folder, engine, threads):
    """The public pipeline of a checkpoint folder; `engine` is `"torch"` or one of `ONNX_FILES`."""
    options = {"onnx_file": ONNX_FILES[engine], "num_threads": threads} if engine in ONNX_FILES else {}
    model = TSNModel.from_pretrained(folder, **options).eval()
    return TSNPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")


def pieces(pipe, texts):
    """The chunks that TSN cuts the texts into, as strings, for systems that take short texts alone."""
    config = pipe.model.config
    limit = token_limit(pipe.tokenizer, config)
    owners, chunks, _ = encode_chunks(texts, pipe.tokenizer, config.chunk_words, max_tokens=limit)
    return [texts[owner][chunk.start : chunk.end] for owner, chunk in zip(owners, chunks)]


def count_tokens(pipe, texts):
    """Tokens that the model reads, special ones included and padding not."""
    return int(pipe.preprocess(list(texts)).token_counts.sum())


def batches(pipe, texts, batch_size):
    """The pipeline's padded batches of all texts' chunks, sorted by length: dicts of `(batch, tokens)` tensors."""
    chunks = pipe.preprocess(list(texts))
    return [inputs for _, inputs in pipe._batches(chunks, batch_size)]


class TorchForward:
    """The bare torch model.

    Args:
        pipe: The `TSNPipeline` that makes the batches and holds the model.
    """

    ways = [Way(size, False) for size in BATCH_SIZES]

    def __init__(self, pipe):
        self.pipe = pipe

    def prepare(self, texts, way):
        """A function without arguments that runs the model over the texts' chunks, and does nothing else."""
        prepared = batches(self.pipe, texts, way.batch_size)

        def run():
            with torch.inference_mode():
                for inputs in prepared:
                    self.pipe.model(**inputs)

        return run


class OnnxForward:
    """A bare ONNX Runtime session, or one of a single thread that several threads call.

    Quantized, it runs no larger batches side by side: that would be faster by a tenth, but an answer would depend on
    the rows beside it.

    Args:
        pipe: The `TSNPipeline` that makes the batches.
        path: The ONNX file.
        threads: Threads to compute with.
    """

    def __init__(self, pipe, path, threads):
        self.pipe = pipe
        self.session, self.single = _session(path, threads), _session(path, 1)
        self.names = [value.name for value in self.session.get_inputs()]
        self.threads = ThreadPoolExecutor(threads)
        side_by_side = (1,) if pipe.model.quantized else BATCH_SIZES
        self.ways = [*(Way(size, False) for size in BATCH_SIZES), *(Way(size, True) for size in side_by_side)]

    def prepare(self, texts, way):
        """As `TorchForward.prepare`."""
        # The graph may read token types that the tokenizer does not give: zeros.
        prepared = [
            {name: inputs.get(name, torch.zeros_like(inputs["input_ids"])).numpy() for name in self.names}
            for inputs in batches(self.pipe, texts, way.batch_size)
        ]

        def run():
            for feed in prepared:
                self.session.run(None, feed)

        def run_side_by_side():
            for _ in self.threads.map(lambda feed: self.single.run(None, feed), prepared):
                pass

        return run_side_by_side if way.side_by_side else run


def _session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads may spin within a run, as that is fastest, but not on into what is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_limits(folder, pipes, threads):
    """The bare model of each engine: dict of the engine to its `TorchForward` or `OnnxForward`."""
    limits = {"torch": TorchForward(pipes["torch"])}
    for engine, name in ONNX_FILES.items():
        limits[engine] = OnnxForward(pipes[engine], Path(folder) / "onnx" / name, threads)
    return limits
