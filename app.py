"""TSN as a web page: a Gradio Space, or `python app.py` on your own machine.

The model is that of the folder of this file, or the Hub repository of TSN_MODEL at TSN_REVISION.
"""

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import os
import re
import zlib
from pathlib import Path
from typing import Any

import gradio as gr
from transformers import Pipeline, pipeline
from transformers.utils import cached_file

from highlight_tsn import STYLE, chunk_sentiments, highlighted

HERE = Path(__file__).resolve().parent
MODEL = os.environ.get("TSN_MODEL") or str(HERE)
REVISION = os.environ.get("TSN_REVISION") or None
INT8 = "model_quantized.onnx"
MAX_CHARACTERS = 200_000  # of the text box
MAX_BYTES = 20_000_000  # of a file
SHOWN_ROWS = 200  # of a file's table; the download has all
PACKED = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ\0", lzma.open),
}
FILE_TYPES = [".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", *PACKED]
SCORES = ("negative", "neutral", "positive")
NEW_COLUMNS = ["tsn_sentiment", *(f"tsn_{name}" for name in SCORES), "tsn_topics", "tsn_entities"]
EXAMPLES = [  # all but the last, which is long, are of examples/everyday.jsonl
    "The food at Luigi's was amazing but the service was painfully slow and the waiter rude.",
    "I called Vodafone on Monday about my broadband bill; the agent, Priya, was lovely and sorted it in five minutes.",
    "Das Hotel in München war sauber, aber das Frühstück war eine Katastrophe.",
    "Il telefono è arrivato rotto e Amazon non risponde, ma la custodia è bellissima.",
    "The European Central Bank raised interest rates by 25 basis points on Thursday, President Christine Lagarde said "
    "in Frankfurt.",
    "The hotel in Lisbon was spotless and the breakfast buffet a dream. We would come back any time for the roof "
    "terrace alone. Then the trouble began. The airport shuttle never came, nobody at the front desk answered the "
    "phone, and Air Atlantic charged us twice for the missed flight. Six weeks later we are still waiting for the "
    "refund, and their support replies with the same empty sentences. A shame, as the room was lovely and the staff "
    "at the pool bar could not have been kinder.",
]


def load() -> Pipeline:
    """The pipeline: int8 on ONNX Runtime if the model has it, else torch."""
    options: dict[str, Any] = {"model": MODEL, "revision": REVISION, "trust_remote_code": True}
    try:
        if importlib.util.find_spec("onnxruntime"):
            cached_file(MODEL, INT8, subfolder="onnx", revision=REVISION)
            options["model_kwargs"] = {"onnx_file": INT8}
    except OSError:  # the model has none
        pass
    return pipeline("topic-sentiment-ner", **options)  # type: ignore[call-overload]


tsn = load()


def analyse(text: str, threshold: float = 0.0, entity_threshold: float = 0.0) -> tuple:
    """What the first tab shows for a text: HTML, the scores, a table of spans, and the chunks as HTML."""
    if not text or not text.strip():
        raise gr.Error("There is no text yet: type or paste one, or choose an example.")
    if len(text) > MAX_CHARACTERS:
        raise gr.Error(f"The text has {len(text):,} characters; this page takes {MAX_CHARACTERS:,}.")
    thresholds = {"threshold": threshold, "entity_threshold": entity_threshold}
    result = tsn(text, batch_size=32, return_chunks=True, **thresholds)
    if result["sentiment"]["label"] is None:
        raise gr.Error("The text has no visible character.")
    spans = [["topic", t["word"], round(t["score"], 2), t["sentiment"]] for t in result["topics"]]
    spans += [[e["entity_group"], e["word"], round(e["score"], 2), e["sentiment"]] for e in result["entities"]]
    by_chunk = f"<h3>Sentiment by chunk</h3>{chunk_sentiments(text, result['chunks'])}"
    return (
        f"<style>{STYLE}</style>{highlighted(text, result)}",
        result["sentiment"]["scores"],
        spans,
        gr.update(value=by_chunk, visible=len(result["chunks"]) > 1),
    )


def read_table(path: str) -> tuple[list, list]:
    """`(header, rows)` of a CSV, JSON, Parquet or text file, packed or not; a text file has one text per line and gets
    the header `text`.

    Raises:
        gr.Error: the file is too large, not UTF-8 or not a table; the message says where.
    """
    name = Path(path).name
    content = unpacked(path)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() not in PACKED]
    kind = suffixes[-1] if suffixes else ".txt"
    if kind == ".parquet":
        header, rows = parquet_table(name, content)
    elif kind in (".json", ".jsonl", ".ndjson"):
        header, rows = json_table(name, decoded(name, content))
    elif kind in (".csv", ".tsv"):
        header, rows = csv_table(name, decoded(name, content), kind)
    else:
        lines = re.split(r"\r\n|\n|\r", decoded(name, content))  # str.splitlines would also split at U+2028
        return ["text"], [[line] for line in (lines[:-1] if not lines[-1] else lines)]
    if not header:
        raise gr.Error(f"{name} is empty, or its first line is. The first line must name the columns.")
    if len(set(header)) < len(header) or set(header) & set(NEW_COLUMNS):
        raise gr.Error(
            f"{name}: two columns have the same name, or one has that of an added column ({', '.join(NEW_COLUMNS)})."
        )
    return header, rows


def unpacked(path):
    """The bytes of a file, of which there are no more than the page takes."""
    magic, opener = PACKED.get(Path(path).suffix.lower(), (b"", open))
    with open(path, "rb") as file:
        if not file.read(6).startswith(magic):  # a browser may have unpacked it
            opener = open
    try:
        with opener(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise gr.Error(f"{Path(path).name} is damaged or incomplete ({error}).") from error
    if len(content) > MAX_BYTES:
        size = f"{MAX_BYTES // 1_000_000} MB"
        raise gr.Error(f"{Path(path).name} is larger than {size}, which is what this page takes.")
    return content


def decoded(name, content):
    """A text file's content: in UTF-8, or in what its byte order mark says."""
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1\x15")):
        raise gr.Error(f"{name} is an Office file, an archive or Parquet under another name: save it as CSV.")
    encoding = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise gr.Error(f"{name} is not {encoding} text (byte {error.start}): save it as UTF-8.") from error


def csv_table(name, content, kind):
    csv.field_size_limit(MAX_BYTES)
    first = content.partition("\n")[0]
    delimiter = max("\t,;" if kind == ".tsv" else ",;\t", key=first.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = next(reader, [])
        for row in reader:
            # With a single column a blank line is a row with an empty text; otherwise it is no row.
            if row or len(header) == 1:
                rows.append(row or [""])
                if len(rows[-1]) != len(header):
                    raise csv.Error(f"{len(row)} cells under a header of {len(header)}")
    except csv.Error as error:
        raise gr.Error(f"{name}, line {reader.line_num}: not a row of this CSV file ({error}).") from error
    return header, rows


def json_table(name, content):
    """Of an array of objects, of one object, or of JSON Lines."""
    try:
        values = json.loads(content, parse_constant=lambda _: None)
        values = values if isinstance(values, list) else [values]
    except (ValueError, RecursionError):
        values = []
        for number, line in enumerate(content.split("\n"), start=1):
            try:
                values += [json.loads(line, parse_constant=lambda _: None)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise gr.Error(f"{name}, line {number}: not JSON ({error}).") from error
    return table_of(name, values)


def parquet_table(name, content):
    try:
        import pyarrow.parquet as pq

        return table_of(name, pq.read_table(io.BytesIO(content)).to_pylist())
    except ImportError as error:
        raise gr.Error(f"{name}: Parquet needs pyarrow, which is not installed here.") from error
    except (OSError, ValueError, OverflowError) as error:
        raise gr.Error(f"{name}: not a readable Parquet file ({error}).") from error


def table_of(name, values):
    """Dicts as header and rows of text: nothing for what is missing, JSON for what is not text."""
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise gr.Error(f"{name}, row {number}: not an object with columns.")
    header = list(dict.fromkeys(key for value in values for key in value))
    return header, [[_cell(value.get(key)) for key in header] for value in values]


def _cell(value):
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return value.encode("utf-8", "backslashreplace").decode()  # JSON may have half a surrogate pair


def columns_of(path: str | None) -> dict:
    """An update of the column dropdown for a file; the column that looks like the text is selected."""
    if path is None:
        return gr.update(choices=[], value=None)
    header, _ = read_table(path)
    likely = [name for name in header if name.strip().lower() in ("text", "review", "comment", "message", "body")]
    return gr.update(choices=header, value=(likely or header)[0])


def analyse_file(
    path: str | None,
    column: str,
    threshold: float = 0.0,
    entity_threshold: float = 0.0,
    progress=gr.Progress(),  # noqa: B008 (how Gradio passes one)
) -> tuple:
    """Analyses the texts of a file: a note, a table of the first rows, and a CSV file of all rows."""
    if path is None:
        raise gr.Error("There is no file yet: choose a CSV file with a header, or a text file with one text per line.")
    header, rows = read_table(path)
    if column not in header:
        raise gr.Error(f"{Path(path).name} has no column {column!r}; it has {', '.join(header)}.")
    place = header.index(column)
    texts = (row[place] for row in rows)
    scored = []
    results = tsn(texts, batch_size=32, threshold=threshold, entity_threshold=entity_threshold)
    for row, result in zip(rows, progress.tqdm(results, total=len(rows), unit="texts")):
        sentiment = result["sentiment"]
        topics = "; ".join(f"{t['word']} ({t['sentiment']})" for t in result["topics"])
        entities = "; ".join(f"{e['entity_group']}: {e['word']} ({e['sentiment']})" for e in result["entities"])
        shares = [round(sentiment["scores"][name], 3) for name in SCORES]
        scored.append([*row, sentiment["label"] or "", *shares, topics, entities])
    header = [*header, *NEW_COLUMNS]
    target = Path(path).with_suffix(".tsn.csv")  # beside the upload, where Gradio later deletes both
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *scored])
    note = f"{len(scored):,} rows." + (f" The first {SHOWN_ROWS} are shown." if len(scored) > SHOWN_ROWS else "")
    return note, gr.update(value={"headers": header, "data": scored[:SHOWN_ROWS]}, visible=True), str(target)


def build() -> gr.Blocks:
    """The page."""
    on_hub = not Path(MODEL).exists()
    card = MODEL if on_hub else str(HERE / "README.md")
    link = f"[Model card]({'https://huggingface.co/' if on_hub else '/gradio_api/file='}{card})"
    with gr.Blocks(title="TSN: topics, sentiment, entities", delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# TSN: topics, sentiment and named entities in one read\n"
            "Topics are underlined, in green where they are praised and with a red wave where they are blamed; "
            "entities are marked with their type, and with + or − where they are praised or blamed. English, German, "
            f"Spanish, French, Italian, Dutch, Portuguese; texts of any length. {link}"
        )
        with gr.Accordion("Options", open=False), gr.Row():
            threshold = gr.Slider(0, 1, 0, step=0.05, label="threshold", info="Leave out topics with a lower score.")
            entity_threshold = gr.Slider(
                0, 1, 0, step=0.05, label="entity_threshold", info="Leave out entities with a lower score."
            )
        thresholds = [threshold, entity_threshold]
        with gr.Tab("Text"):
            text = gr.Textbox(label="Text", lines=5, max_lines=20, placeholder="A review, a call, an article ...")
            button = gr.Button("Analyse (Shift + Enter)", variant="primary")
            shown = gr.HTML(render=False)
            scores = gr.Label(label="Sentiment", render=False)
            spans = gr.Dataframe(
                headers=["kind", "phrase", "score", "sentiment"],
                label="Topics, then entities",
                wrap=True,
                render=False,
            )
            chunks = gr.HTML(visible=False, render=False)
            outputs = [shown, scores, spans, chunks]
            inputs = [text, *thresholds]
            # None leaves a slider where it is.
            examples = [[example, None, None] for example in EXAMPLES]
            gr.Examples(examples, inputs, outputs, analyse, run_on_click=True, cache_examples=False)
            for output in outputs:
                output.render()
            gr.on([button.click, text.submit], analyse, inputs, outputs)
        with gr.Tab("File"):
            file = gr.File(label="CSV, JSON or Parquet, or one text per line", file_types=FILE_TYPES)
            column = gr.Dropdown(label="Column of the text", choices=[], interactive=True)
            run = gr.Button("Analyse the file", variant="primary")
            note = gr.Markdown()
            table = gr.Dataframe(label="Result", visible=False)
            download = gr.File(label="Download")
            file.change(columns_of, file, column)
            run.click(analyse_file, [file, column, *thresholds], [note, table, download])
    return page


if __name__ == "__main__":
    build().launch(allowed_paths=[str(HERE / "README.md")])
