"""How well the sentiment of a topic is read: at its words, at its sentence, or off the whole text.

    python -m bench.topic_sentiment . --data ../shared/data

Every annotated topic with a sentiment counts, found by the model or not, unless a chunk's border cuts it. Beside the
three readings stands the class that is most frequent in the training data. Written to
`results/topic_sentiment.json`.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from bench.machine import versions
from chunking_tsn import chunk_text, encode_chunks, model_inputs, tag_words, token_limit
from modeling_tsn import TSNModel
from tagging_tsn import first_subtokens
from tsn.data.annotated import read_rows
from tsn.evaluation.metric import compute_metrics_from_rows
from tsn.evaluation.run import weights_sha256

READINGS = ("majority", "text", "sentence", "topic")
ENDS = ".!?…"


def sentences(text):
    """`[(start, end), ...]` of the sentences, by a rule that is enough for reviews: the longest pieces between final
    marks that `chunk_text` would not join to what follows."""
    found = []
    for chunk in chunk_text(text, 1):  # a word each
        if not found or text[found[-1][1] - 1] in ENDS:
            found.append([chunk.start, chunk.end])
        found[-1][1] = chunk.end
    return [tuple(span) for span in found]


def read_topics(model, tokenizer, rows):
    """Yields `(row, topic, {reading: class})` for every topic with a sentiment that no chunk's border cuts."""
    config = model.config
    for row in tqdm(rows, desc="reading", unit="text"):
        text = row["text"]
        chunks = encode_chunks([text], tokenizer, config.chunk_words, 0, token_limit(tokenizer, config))[1:]
        for chunk, encoding in zip(*chunks):
            inputs = model_inputs(encoding)
            inputs = {name: torch.tensor([inputs[name]]) for name in tokenizer.model_input_names}
            with torch.inference_mode():
                output = model(**inputs)
            at_tokens = output.topic_sentiment_logits[0]  # (tokens, classes)
            positions, words = first_subtokens(tag_words(text[chunk.start : chunk.end]), encoding.offsets)
            words = words + chunk.start  # (words, 2)
            for topic in row["topics"]:
                if topic["sentiment"] is None or topic["start"] < chunk.start or topic["end"] > chunk.end:
                    continue

                around = [s for s in sentences(text) if s[0] < topic["end"] and s[1] > topic["start"]]
                places = {
                    "sentence": (around[0][0], around[-1][1]),
                    "topic": (topic["start"], topic["end"]),
                }
                classes = {"text": int(output.sentiment_logits[0].argmax())}
                for reading, (start, end) in places.items():
                    inside = positions[(words[:, 0] < end) & (words[:, 1] > start)]
                    classes[reading] = int(at_tokens[inside].mean(0).argmax())
                yield row, topic, classes


def measure(found, labels, majority):
    """Macro F1 and accuracy of each reading, all together, by source, and of texts whose topics differ."""
    groups = {"all": found}
    for row, *rest in found:
        groups.setdefault(row["source"], []).append((row, *rest))
    groups["differing"] = [
        entry for entry in found if len({t["sentiment"] for t in entry[0]["topics"] if t["sentiment"]}) > 1
    ]
    results = {}
    for name, entries in groups.items():
        results[name] = {"topics": len(entries)}
        for reading in READINGS:
            answers = [labels[classes[reading]] if reading != "majority" else majority for *_, classes in entries]
            gold = [topic["sentiment"] for _, topic, _ in entries]
            empty = {"topics": None, "entities": None}
            sides = ([{**empty, "sentiment": label} for label in side] for side in (answers, gold))
            metrics = compute_metrics_from_rows(*sides)
            results[name][reading] = {key: metrics[f"sentiment_{key}"] for key in ("macro_f1", "accuracy")}
    return results


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.topic_sentiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("--data", default="../shared/data", help="folder of train.parquet and test.parquet")
    parser.add_argument("--output_dir", default="results", help="where topic_sentiment.json goes")
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        seen = Counter(
            topic["sentiment"]
            for row in read_rows(Path(arguments.data) / "train.parquet", model.config)
            for topic in row["topics"] or []
            if topic["sentiment"] is not None
        )
        rows = [
            row
            for row in read_rows(Path(arguments.data) / "test.parquet", model.config)
            if any(topic["sentiment"] is not None for topic in row["topics"] or [])
        ]
    except (OSError, ValueError) as error:
        sys.exit(f"bench.topic_sentiment: {error}")
    if not rows or not seen:
        sys.exit(f"bench.topic_sentiment: no topics with a sentiment in {arguments.data}")
    found = list(read_topics(model, tokenizer, rows))
    record = {
        "weights_sha256": weights_sha256(arguments.checkpoint),
        "majority": seen.most_common(1)[0][0],
        "results": measure(found, model.config.sentiment_labels, seen.most_common(1)[0][0]),
        "versions": versions(),
    }
    path = Path(arguments.output_dir) / "topic_sentiment.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["results"], indent=2))


if __name__ == "__main__":
    main()
