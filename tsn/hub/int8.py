"""The int8 model as a release of its own: a repository that the Hub shows as a quantization of the model's."""

from typing import cast

from huggingface_hub import ModelCard, ModelCardData

from tsn.hub.card import evaluation_results
from tsn.hub.files import (
    CARD,
    INT8_FILE,
    REPORT,
    RUNTIME_FILES,
    TASK,
    TOKENIZER_FILES,
    hub_name,
    read_record,
)
from tsn.hub.sections import int8_section
from tsn.paths import EVAL_RESULTS, INT8_RESULTS, sha256

_COPIED = ("language", "license", "license_name", "license_link", "pipeline_tag", "datasets", "metrics")
_ONNX_FILES = (INT8_FILE, "onnx/ort_config.json", f"onnx/{REPORT}")
_FILES = ("LICENSE", "LICENSE.md", "config.json", *TOKENIZER_FILES, *RUNTIME_FILES, *_ONNX_FILES)
_TEXT = """
# {name}

[{base}](https://huggingface.co/{base}) in int8, for ONNX Runtime on a CPU: topics (key phrases), sentiment and named
entities of a text in one read. Its page says what it is for and what not.

```python
from transformers import pipeline  # and: pip install onnxruntime

tsn = pipeline(
    "{task}",
    model="{repo_id}",
    revision="v{version}",
    trust_remote_code=True,
    model_kwargs={{"onnx_file": "model_quantized.onnx"}},
)
```

Quantized from version {version}. On the same test data:

{results}"""


def int8_release(staged, folder, arguments):
    """The int8 model's own repository.

    Args:
        staged: The files of the release, names on the Hub to paths.
        folder: Of the checkpoint, with its results.
        arguments: Those of `release.py`.

    Returns:
        `(files, card)`: names on the Hub to paths, and the text of README.md, which is not among them.

    Raises:
        ValueError: there is no int8 model, or it has not been measured.
    """
    if INT8_FILE not in staged or not (folder / INT8_RESULTS).exists():
        raise ValueError(f"--int8_repository needs {INT8_FILE} and {INT8_RESULTS}: make int8")
    record = read_record(folder / INT8_RESULTS)
    if record["weights_sha256"] != sha256(staged[INT8_FILE]):
        raise ValueError(f"{INT8_RESULTS} was measured on another file than {INT8_FILE}: make int8")
    files = {name: staged[name] for name in _FILES if name in staged}
    files[hub_name(EVAL_RESULTS)] = folder / INT8_RESULTS
    base = cast(ModelCardData, ModelCard(staged[CARD].read_text(encoding="utf-8")).data)
    name = arguments.int8_repository.partition("/")[2]
    data = ModelCardData(
        **{key: base.get(key) for key in _COPIED if base.get(key)},
        library_name="transformers",
        base_model=arguments.repo_id,
        base_model_relation="quantized",
        tags=["onnx", "int8"],
        model_name=name,
        eval_results=evaluation_results(record),
    )
    text = _TEXT.format(
        name=name,
        base=arguments.repo_id,
        task=TASK,
        repo_id=arguments.int8_repository,
        version=arguments.version,
        results=int8_section(folder, ["ONNX"]),
    )
    return dict(sorted(files.items())), f"---\n{data}\n---\n{text}"
