"""Which files a Hub repository of TSN holds: those named here, what its pages link to, and no others."""

import json
import posixpath
import re
import tempfile
from itertools import chain
from pathlib import Path

from tsn.paths import EVAL_RESULTS, RESULTS, ROOT

TASK = "topic-sentiment-ner"
CARD = "README.md"
RUNTIME_FILES = (
    *("configuration_tsn.py", "modeling_tsn.py", "graph_tsn.py", "onnx_tsn.py", "openvino_tsn.py"),
    *("tagging_tsn.py", "chunking_tsn.py", "pipeline_tsn.py"),
)
NOTEBOOK = "notebook.ipynb"  # at the root, where the Hub offers to open it in Colab
SERVING_FILES = {  # name on the Hub: name here
    "LICENSE": "LICENSE",  # of the code, which travels with every model
    "handler.py": "handler.py",
    "requirements.txt": "requirements/endpoint.txt",  # what an Inference Endpoint installs beside what it has
    "app.py": "app.py",
    "highlight_tsn.py": "highlight_tsn.py",
    "requirements-space.txt": "requirements/space.txt",
    NOTEBOOK: f"examples/{NOTEBOOK}",
}
INT8_FILE = "onnx/model_quantized.onnx"
REPORT = "quantization_report.json"  # in each folder of graphs
GRAPHS = {  # folder of a checkpoint to the graphs' files in it
    "onnx": re.compile(r"(model|model_quantized)\.onnx"),
    "openvino": re.compile(r"(model|model_quantized)\.(xml|bin)"),
}
TOKENIZER_FILES = (  # which of them there are depends on the tokenizer, and on the transformers that wrote it
    *("tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
)
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", str(EVAL_RESULTS))
_BESIDE_GRAPHS = re.compile(r"ort_config\.json|quantization_report\.(json|md|png)")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "config.json")  # as tsn/training/lora.py reads them
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"""\]\(\s*<?([^)>\s]+)>?(?:\s+["'(][^)]*)?\)|\bsrc\s*=\s*["']([^"']+)["']""")
_CODE_OR_LINK = re.compile(f"{_CODE.pattern}|{_LINK.pattern}", re.DOTALL)
_LINKED_TYPES = {".png", ".json", ".md"}
# Each begins with a literal, which is what makes the search through hundreds of megabytes fast.
_SECRETS = {
    "an access token": (
        *(rb"hf_[A-Za-z0-9]{20,}", rb"api_org_[A-Za-z0-9]{20,}", rb"gh[pousr]_[A-Za-z0-9]{30,}"),
        *(rb"github_pat_\w{30,}", rb"AKIA[0-9A-Z]{16}\b", rb"sk-[A-Za-z0-9_-]{30,}"),
    ),
    "a private key": (rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",),
    "a path of a machine": (
        *(rb"/home/[\w.-]+", rb"/Users/[\w.-]+", rb"file:///\w+", rb":\\{1,2}Users\\", rb":/Users/"),
        *(rb":\\{1,2}Documents and Settings",),
    ),
}


def read_record(path):
    """A file of recorded results.

    Raises:
        OSError: it is missing.
        ValueError: it is not JSON; or later, when a key is read that the file lacks.
    """

    class Record(dict):
        def __missing__(self, key):
            raise ValueError(f"{path} has no {key!r}: write it again")

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_hook=Record)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): write it again") from error


def read_pages(folder):
    """README.md and the Markdown pages that it links to, directly or through each other: names to texts.

    The tables that commands write under `results/` are files like any other, not pages.

    Raises:
        ValueError: a page is missing, or links to what it may not, see `linked_files`.
    """
    pages, left = {}, [CARD]
    while left:
        name = left.pop(0)
        if name in pages:
            continue
        if not (folder / name).is_file():
            raise ValueError(f"{name} belongs to a release and is not in {folder}")
        pages[name] = (folder / name).read_text(encoding="utf-8")
        links = linked_files(pages[name], name)
        left += [link for link in links if link.endswith(".md") and not Path(link).is_relative_to(RESULTS)]
    return pages


def release_files(folder, pages):
    """The files of a release.

    Args:
        folder: Of the checkpoint; with `onnx/`, `openvino/` and folders of adapters if it has any.
        pages: README.md and the pages that it links to, names to texts. What they link to by a relative path,
            pictures and recorded results, travels with them.

    Returns:
        dict: names on the Hub, in order, to paths here. README.md is not among them.

    Raises:
        ValueError: a file is missing, or is a link out of its folder.
    """
    folder = Path(folder).resolve()
    ours = {**{name: name for name in RUNTIME_FILES}, **SERVING_FILES}
    own = [*_NEEDED, *(name for name in TOKENIZER_FILES if name not in _NEEDED and (folder / name).exists())]
    for name, graph in GRAPHS.items():
        paths = folder.glob(f"{name}/*")
        own += [f"{name}/{p.name}" for p in paths if graph.fullmatch(p.name) or _BESIDE_GRAPHS.fullmatch(p.name)]
    for config in folder.glob("*/adapter_config.json"):
        if not config.parent.name.startswith("checkpoint-"):  # the trainer's own
            own += [f"{config.parent.name}/{name}" for name in _ADAPTER]
    for page, text in pages.items():
        own += [name for name in linked_files(text, page) if name not in (CARD, *ours)]
    places = {name: (ROOT, source) for name, source in ours.items()}
    places |= {hub_name(name): (folder, name) for name in own}
    for base, source in places.values():
        if not (base / source).is_file():
            raise ValueError(f"{source} belongs to a release and is not in {base}")
        if not (base / source).resolve().is_relative_to(base):
            raise ValueError(f"{source} is a link that leaves {base}")
    return {name: base / source for name, (base, source) in sorted(places.items())}


def hub_name(path):
    """What a file of a checkpoint's folder is called on the Hub, where recorded results keep the names that they had
    before they lay in one folder."""
    path = Path(path)
    if path.parent == RESULTS and path.stem == EVAL_RESULTS.stem:
        return path.name
    return f"bench/{path.as_posix()}" if path.is_relative_to(RESULTS) else path.as_posix()


def hub_page(text, page=CARD):
    """A page as it stands on the Hub: its links name files as `hub_name` does."""
    folder = posixpath.dirname(page)

    def renamed(match):
        target = match[1] or match[2] or ""  # empty in code
        path, mark, place = target.partition("#")
        name = posixpath.normpath(posixpath.join(folder, path))
        if not Path(name).is_relative_to(RESULTS):
            return match[0]
        link = posixpath.relpath(hub_name(name), folder or ".")
        return match[0].replace(target, f"{link}{mark}{place}", 1)

    return _CODE_OR_LINK.sub(renamed, text)


def linked_files(text, page=CARD):
    """Names of the files that a page links to by a relative path, seen from the folder that holds README.md.

    Raises:
        ValueError: such a path leaves the folder, or is of a type that no page needs.
    """
    names = []
    for link in _LINK.finditer(_CODE.sub("", text)):
        target = link[1] or link[2]
        if re.match(r"[a-z][a-z+.-]*:|#|//", target, re.IGNORECASE):
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target.partition("#")[0]))
        allowed = Path(name).suffix in _LINKED_TYPES or name == "LICENSE"
        if name.startswith(("/", "..")) or "\\" in name or not allowed:
            raise ValueError(
                f"{page} links to {target}; a page may link to .png, .json and .md files of this folder and to LICENSE"
            )
        names.append(name)
    return list(dict.fromkeys(names))


def check_content(name, content):
    """Raises `ValueError` if the bytes hold what must not be published: tokens, keys, a machine's paths."""
    for what, patterns in _SECRETS.items():
        for match in chain.from_iterable(re.finditer(pattern, content) for pattern in patterns):
            before = content[max(match.start() - 1, 0) : match.start()]
            if not re.match(rb"[\w./~-]", before) or what == "a private key" or match[0][:1] == b":":
                shown = match[0].decode("ascii", "replace")
                raise ValueError(f"{name} holds {what} ({shown[:8]}...): it would be published")
    here = {str(place) for place in (Path.home(), Path.cwd(), ROOT, tempfile.gettempdir())} - {"/"}
    for place in here:
        if f"{place}/".encode() in content:
            raise ValueError(f"{name} holds a path of this machine ({place}): it would be published")
