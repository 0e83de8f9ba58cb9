"""A TSN model in ONNX Runtime: the outputs of `TSNModel` from `model.onnx` or `model_quantized.onnx`.

Needs `onnxruntime` alone, so that it works where Optimum's ONNX package cannot be installed (transformers 5).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput, cached_file

try:
    import onnxruntime
except ImportError:  # only those who run ONNX need it
    onnxruntime = None

OUTPUTS = ["topic_logits", "ner_logits", "sentiment_logits", "topic_sentiment_logits"]
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class TSNOnnxModel(nn.Module):
    """Runs an exported TSN model; `TSNPipeline` takes it like a `TSNModel`.

    Dynamic int8 scales activations by the range of the whole tensor that a matrix multiplication reads, so that in a
    batch the answer for a text would depend on the texts beside it. A quantized model therefore runs each row alone,
    without padding, several rows at a time on threads of their own: the answer for a text is the same, to the bit,
    whatever it is sent with.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True,
                       model_kwargs={"onnx_file": "model_quantized.onnx"})
        ```

    Args:
        session: An `onnxruntime.InferenceSession`.
        config: The model's `TSNConfig`.
        num_threads: Threads to compute with.

    Raises:
        ValueError: the graph's inputs or outputs are not those of a TSN model with these labels.
    """

    def __init__(self, session, config, num_threads=None):
        super().__init__()
        self.session, self.config = session, config
        self.device, self.dtype = torch.device("cpu"), torch.float32  # where tensors go in and come out
        self.input_names = [value.name for value in session.get_inputs()]
        self._check_graph()
        self.quantized = session.get_modelmeta().producer_name == "onnx.quantize"
        self._workers = num_threads or torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self._workers) if self.quantized else None

    @classmethod
    def from_pretrained(
        cls, name_or_path, config, onnx_file="model_quantized.onnx", num_threads=None, providers=None, **hub
    ):
        """Loads a file of the `onnx` folder of a checkpoint.

        Args:
            name_or_path: Folder or Hub id.
            config: The checkpoint's `TSNConfig`.
            onnx_file: Its name in that folder.
            num_threads: Threads to compute with; all cores by default.
            providers: ONNX Runtime's execution providers in order of preference; the CPU's by default.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, ...: as everywhere in transformers.

        Raises:
            ImportError: ONNX Runtime is not installed.
            OSError: the file is not there, or is not an ONNX model.
            ValueError: a parameter is out of range, or the graph is not that of this model.
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
                raise ValueError(f"no execution provider {provider!r} here; there are {', '.join(available)}")
        try:
            path = cached_file(name_or_path, onnx_file, subfolder="onnx", **hub)
        except OSError as error:
            raise OSError(f"onnx/{onnx_file} cannot be had ({error}). quantize.py makes ONNX files.") from error
        threads = num_threads or torch.get_num_threads()
        model = cls(open_session(path, threads, providers), config, threads)
        if model.quantized:  # rows run side by side: a thread each
            model.session = open_session(path, 1, providers)
        return model

    def _check_graph(self):
        given, outputs = set(self.input_names), {value.name: value.shape for value in self.session.get_outputs()}
        if "input_ids" not in given or given - _INPUTS:
            raise ValueError(f"the ONNX graph reads {', '.join(self.input_names)}: it is not that of a TSN model")
        sentiments = self.config.sentiment_labels
        for name, names in zip(OUTPUTS, (self.config.topic_labels, self.config.ner_labels, sentiments, sentiments)):
            if name not in outputs:
                raise ValueError(
                    f"the ONNX graph gives {', '.join(outputs)}, not {', '.join(OUTPUTS)}: export it with quantize.py"
                )
            size = outputs[name][-1]
            if isinstance(size, int) and size != len(names):
                raise ValueError(f"{name} of the ONNX graph has {size} labels, the configuration {len(names)}")

    def can_generate(self):  # asked by pipelines of every model
        return False

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        """As `TSNModel.forward`, without labels.

        Args:
            input_ids, attention_mask, token_type_ids: `(batch, tokens)`, tensors or arrays.

        Returns:
            `ModelOutput` of `topic_logits` and `ner_logits`, `(batch, tokens, tags)`, `sentiment_logits`,
            `(batch, classes)`, and `topic_sentiment_logits`, `(batch, tokens, classes)`: tensors on the CPU. A
            quantized model gives 0 for padding on the right.
        """
        ids = _array(input_ids)
        mask = np.ones_like(ids) if attention_mask is None else _array(attention_mask)
        types = np.zeros_like(ids) if token_type_ids is None else _array(token_type_ids)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {name: given[name] for name in self.input_names}
        run = self._run_rows if self.quantized else self._run_batch
        return ModelOutput({name: torch.from_numpy(value) for name, value in zip(OUTPUTS, run(feed, mask))})

    def _run_batch(self, feed, mask):
        return self.session.run(OUTPUTS, feed)

    def _run_rows(self, feed, mask):
        lengths = (mask.shape[1] - (mask[:, ::-1] != 0).argmax(1)).tolist()  # up to the last token that is read
        waiting, rows = SimpleQueue(), [None] * len(lengths)
        for i in range(len(lengths)):
            waiting.put(i)

        def work(_):
            while True:
                try:
                    i = waiting.get_nowait()
                except Empty:
                    return
                row = {name: values[i : i + 1, : lengths[i]] for name, values in feed.items()}  # (1, tokens)
                rows[i] = self.session.run(OUTPUTS, row)

        list(self._threads.map(work, range(self._workers)))  # a list, so that an error in a thread is raised here
        values = []
        for name, logits in zip(OUTPUTS, zip(*rows)):
            if name == "sentiment_logits":
                values.append(np.concatenate(logits))  # (batch, classes)
                continue
            padded = np.zeros((*mask.shape, logits[0].shape[-1]), dtype=np.float32)  # (batch, tokens, tags)
            for row, found in zip(padded, logits):
                row[: found.shape[1]] = found[0]
            values.append(padded)
        return values


def _array(values):
    return torch.as_tensor(values).cpu().numpy().astype(np.int64, copy=False)


def open_session(path, threads, providers=("CPUExecutionProvider",)):
    """An ONNX Runtime session that leaves the cores to others while it waits.

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
        raise OSError(f"{path} cannot be loaded as an ONNX model: {error}") from error
