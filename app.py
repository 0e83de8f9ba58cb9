"""TSN as a web page: a Gradio Space, or `python app.py` on your own machine.

The model is that of the folder of this file, or the Hub repository of TSN_MODEL at TSN_REVISION.
"""

import csv
import importlib.util
import io
import os
import re
from pathlib import Path

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
SCORES = ("negative", "neutral", "positive")
NEW_COLUMNS = ["tsn_sentiment", *(f"tsn_{name}" for name in SCORES), "tsn_topics", "tsn_entities"]
EXAMPLES = [
    "The battery life of the new laptop is superb, but the customer service of Acme in Madrid was slow and rude, says "
    "Maria Gomez.",
    "Die Suppe war kalt, aber Maria im Chez Louis in Köln war wunderbar.",
    "We study how graph neural networks can be trained on millions of nodes. A new sampling method halves the cost.",
    "The hotel in Lisbon was spotless and the breakfast buffet a dream. We would come back any time for the roof "
    "terrace alone. Then the trouble began. The airport shuttle never came, nobody at the front desk answered the "
    "phone, and Air Atlantic charged us twice for the missed flight. Six weeks later we are still waiting for the "
    "refund, and their support replies with the same empty sentences. A shame, as the room was lovely and the staff "
    "at the pool bar could not have been kinder.",
]


def load() -> Pipeline:
    """The pipeline: int8 on ONNX Runtime if the model has it, else torch."""
    options = {"model": MODEL, "revision": REVISION, "trust_remote_code": True}
    try:
        if importlib.util.find_spec("onnxruntime"):
            cached_file(MODEL, INT8, subfolder="onnx", revision=REVISION)
            options["model_kwargs"] = {"onnx_file": INT8}
    except OSError:  # the model has none
        pass
    return pipeline("topic-sentiment-ner", **options)


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
    """`(header, rows)` of a CSV or text file; a text file has one text per line and gets the header `text`.

    Raises:
        gr.Error: the file is too large, not UTF-8 or not a table; the message says where.
    """
    name = Path(path).name
    if os.path.getsize(path) > MAX_BYTES:
        raise gr.Error(f"{name} is larger than {MAX_BYTES // 1_000_000} MB, which is what this page takes.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise gr.Error(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    if not name.lower().endswith(".csv"):
        lines = re.split(r"\r\n|\n|\r", content)  # str.splitlines would also split at U+2028
        return ["text"], [[line] for line in (lines[:-1] if not lines[-1] else lines)]
    csv.field_size_limit(MAX_BYTES)
    first = content.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
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
    if not header:
        raise gr.Error(f"{name} is empty, or its first line is. The first line must name the columns.")
    if len(set(header)) < len(header) or set(header) & set(NEW_COLUMNS):
        raise gr.Error(
            f"{name}: two columns have the same name, or one has that of an added column ({', '.join(NEW_COLUMNS)})."
        )
    return header, rows


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
            file = gr.File(label="CSV with a header, or one text per line", file_types=[".csv", ".txt"])
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
