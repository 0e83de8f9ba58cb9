"""TSN behind a Hugging Face Inference Endpoint.

The endpoint imports this file from the repository, creates one `EndpointHandler(path)` and calls it with the JSON of
each request; an error becomes a response with its message. On a machine without a GPU it runs the int8 model, if the
repository has one and `onnxruntime` is installed, as requirements.txt asks.
"""

import importlib.util
from pathlib import Path

BATCH_SIZE, MAX_BATCH_SIZE = 32, 256  # chunks; larger batches could use up the memory that other requests need
PARAMETERS = {"max_words", "overlap_words", "aggregation", "top_k", "threshold", "entity_threshold", "return_chunks"}
PARAMETERS |= {"batch_size"}


class EndpointHandler:
    """Answers requests such as `{"inputs": "A text.", "parameters": {"top_k": 5}}`.

    Args:
        path: Folder of the model's repository.
    """

    def __init__(self, path: str = ""):
        from transformers import pipeline  # here, as serve.py reads requests in a process that loads no model

        path = path or str(Path(__file__).resolve().parent)
        int8 = Path(path, "onnx", "model_quantized.onnx").is_file() and importlib.util.find_spec("onnxruntime")
        options = {"model_kwargs": {"onnx_file": "model_quantized.onnx"}} if int8 and not _has_gpu() else {}
        # The code that runs is in the same repository as this file.
        self.pipeline = pipeline(  # type: ignore[call-overload]
            "topic-sentiment-ner", model=path, trust_remote_code=True, **options
        )

    def __call__(self, data: dict) -> dict | list:
        """Analyses the text or texts of a request.

        Args:
            data: `inputs`, a string or a list of strings; and optionally `parameters` of a call of `TSNPipeline`, such
                as `top_k`, `threshold`, `entity_threshold` or `aggregation`.

        Returns:
            The pipeline's dict for a string, a list of them for a list: `topics` and `entities`, each with its place,
            `score`, `sentiment` and `sentiment_score`, and the `sentiment` of the text.

        Raises:
            ValueError: the request is malformed; the message says how.
        """
        inputs, parameters = read_request(data)
        return self.pipeline(inputs, **parameters)


def read_request(data) -> tuple[str | list[str], dict]:
    """Checks the form of a request, but not the values of the pipeline's parameters.

    Args:
        data: The request's JSON.

    Returns:
        `(inputs, parameters)`: a text or a list of texts, and the parameters, `batch_size` always among them.

    Raises:
        ValueError: the request is malformed; the message says how.
    """
    if not isinstance(data, dict) or "inputs" not in data:
        raise ValueError('a request is {"inputs": "a text" or ["a text", ...], "parameters": {...}}')
    inputs, parameters = data["inputs"], data.get("parameters")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be an object, not {type(parameters).__name__}")
    unknown = sorted(set(parameters) - PARAMETERS)
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown):.200}; there are {', '.join(sorted(PARAMETERS))}")
    if not isinstance(inputs, (str, list)):
        raise ValueError(f"inputs must be a string or a list of strings, not {type(inputs).__name__}")
    for i, text in enumerate(inputs if isinstance(inputs, list) else []):
        if not isinstance(text, str):
            raise ValueError(f"inputs[{i}] must be a string, not {type(text).__name__}")
    parameters = {"batch_size": BATCH_SIZE, **parameters}
    if isinstance(parameters["batch_size"], int) and parameters["batch_size"] > MAX_BATCH_SIZE:
        raise ValueError(f"batch_size must be {MAX_BATCH_SIZE} at most, not {parameters['batch_size']}")
    return inputs, parameters


def _has_gpu():
    import torch

    return torch.cuda.is_available()
