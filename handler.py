"""TSN behind a Hugging Face Inference Endpoint.

The endpoint imports this file from the repository, makes `EndpointHandler(path)` once and calls it with each request's
JSON; an error becomes a response with its message. It runs the int8 model where there is one, `onnxruntime` is
installed (as requirements.txt asks) and no GPU is there.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import pipeline

BATCH_SIZE, MAX_BATCH_SIZE = 32, 256  # chunks; more could take all memory of a machine that serves others
PARAMETERS = {"max_words", "overlap_words", "aggregation", "top_k", "threshold", "return_chunks", "batch_size"}


class EndpointHandler:
    """Answers requests such as `{"inputs": "A text.", "parameters": {"top_k": 5}}`.

    Args:
        path: Folder of the model's repository.
    """

    def __init__(self, path=""):
        path = path or str(Path(__file__).resolve().parent)
        int8 = Path(path, "onnx", "model_quantized.onnx").is_file() and importlib.util.find_spec("onnxruntime")
        options = {"model_kwargs": {"onnx_file": "model_quantized.onnx"}} if int8 and not _has_gpu() else {}
        # The code is that of this file's own repository.
        self.pipeline = pipeline("topic-sentiment-ner", model=path, trust_remote_code=True, **options)

    def __call__(self, data):
        """Analyses the text or texts of a request.

        Args:
            data: `inputs`, a string or a list of strings; and, if need be, `parameters`, those of a call of
                `TSNPipeline`, such as `top_k`, `threshold` or `aggregation`.

        Returns:
            The pipeline's dict for a string, a list of them for a list.

        Raises:
            ValueError: the request is not such a one; the message says what is wrong.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('a request is {"inputs": "a text" or ["a text", ...], "parameters": {...}}')
        inputs, parameters = data["inputs"], data.get("parameters")
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters must be an object, not {type(parameters).__name__}")
        unknown = sorted(set(parameters) - PARAMETERS)
        if unknown:
            raise ValueError(f"unknown parameter {', '.join(unknown)}; there are {', '.join(sorted(PARAMETERS))}")
        if not isinstance(inputs, (str, list)):
            raise ValueError(f"inputs must be a string or a list of strings, not {type(inputs).__name__}")
        for i, text in enumerate(inputs if isinstance(inputs, list) else []):
            if not isinstance(text, str):
                raise ValueError(f"inputs[{i}] must be a string, not {type(text).__name__}")
        parameters = {"batch_size": BATCH_SIZE, **parameters}
        if isinstance(parameters["batch_size"], int) and parameters["batch_size"] > MAX_BATCH_SIZE:
            raise ValueError(f"batch_size must be {MAX_BATCH_SIZE} at most, not {parameters['batch_size']}")
        return self.pipeline(inputs, **parameters)


def _has_gpu():
    return torch.cuda.is_available()
