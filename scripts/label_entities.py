"""Entities for reviews, which no data set annotates: those that a trained model is sure of.

    python -m scripts.label_entities CHECKPOINT ../shared/data/train.parquet ../shared/data/train_wild.parquet \\
        --output out/reviews-entities.parquet

Where reviews train topics alone, the entity head learns nothing from them, or, from their common nouns, that reviews
have no entities (see `--common_nouns` of train.py). This runs a model over the reviews (rows of sources whose topics
have sentiments) that have a capital within a sentence, and keeps those in which it is sure of every entity that it
finds and leaves no such capital over (self-training, as in Yarowsky 1995). In German, whose nouns have capitals, being
sure is enough. The rows written have entities and no other label; their source is `reviews-entities`.
"""

import argparse
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import AutoTokenizer

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.data.annotated import read_rows
from tsn.data.names import capitals
from tsn.evaluation.aspects import review_sources

SOURCE = "reviews-entities"
SURE = 0.65  # score of the least certain entity of a row


def is_accounted_for(row: dict, entities: list[dict]) -> bool:
    """Whether the entities can be taken for all that the text has."""
    if not entities or min(entity["score"] for entity in entities) < SURE:
        return False
    words = capitals(row["text"])
    covered = (any(e["start"] <= start and end <= e["end"] for e in entities) for start, end in words)
    starts = {start for start, _ in words}
    return (row["language"] == "de" or all(covered)) and all(e["start"] in starts for e in entities)


def candidates(paths: list[str], config) -> list[dict]:
    """Reviews without annotated entities that have a capital within a sentence."""
    rows = [row for path in paths for row in read_rows(path, config)]
    reviews = review_sources(rows)
    return [
        row
        for row in rows
        if row["source"] in reviews and row["entities"] is None and not row["text"].isupper() and capitals(row["text"])
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a TSN model")
    parser.add_argument("data", nargs="+", help="annotated data, with reviews in it")
    parser.add_argument("--output", required=True, help="the Parquet file to write")
    parser.add_argument(
        "--most", type=int, default=10_000, help="reviews to look at, at random (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        rows = candidates(arguments.data, model.config)
    except (OSError, ValueError) as error:
        sys.exit(f"label_entities: {error}")
    random.Random(0).shuffle(rows)
    rows = rows[: arguments.most]
    pipe, kept = TSNPipeline(model=model, tokenizer=tokenizer), []
    results = pipe((row["text"] for row in rows), batch_size=32)
    for row, result in zip(rows, tqdm(results, total=len(rows), desc="labelling", unit="text")):
        if is_accounted_for(row, result["entities"]):
            spans = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in result["entities"]]
            kept.append({"source": SOURCE, "language": row["language"], "text": row["text"], "entities": spans})
    span = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())])
    fields = [("source", pa.string()), ("language", pa.string()), ("text", pa.string()), ("entities", pa.list_(span))]
    pq.write_table(pa.Table.from_pylist(kept, schema=pa.schema(fields)), arguments.output)
    print(f"{len(kept)} of {len(rows)} reviews have entities that the model is sure of: {arguments.output}")


if __name__ == "__main__":
    main()
