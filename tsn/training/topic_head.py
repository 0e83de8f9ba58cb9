"""A head of its own for the sentiment of topics, on what the encoder of a trained model already knows.

    python -m tsn.training.topic_head CHECKPOINT --train_file TRAIN ... --validation_file VALIDATION ... \\
        --output_dir OUT

`train.py` teaches the sentiment head the sentiment of topics along with everything else. This adds a head and changes
nothing else: multinomial logistic regression on the encoder's last hidden states, averaged over the words of each
topic with a sentiment. The penalty is the one with the lowest log loss on the validation data. OUT is a complete Hub
folder.
"""

import argparse
import sys

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_tsn import TSNModel
from tsn.data.annotated import read_rows
from tsn.data.features import IGNORED, TSNCollator, rows_to_features
from tsn.hub.folder import write_hub_folder

PENALTIES = (0.2, 0.06, 0.02, 0.006, 0.002, 0.0006)
UNSEEN = 10.0  # logits below the others' that a class without examples starts from


def topic_states(
    model: TSNModel, tokenizer: PreTrainedTokenizerFast, features: Dataset, batch_size: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean hidden state over the words of each topic that has a sentiment, and that sentiment.

    Args:
        model: A [`TSNModel`].
        tokenizer: Its fast tokenizer.
        features: See `tsn.data.features.rows_to_features`.

    Returns:
        `(topics, hidden)` float64 and `(topics,)` int64 tensors.
    """
    tags = model.config.topic_labels
    begins = torch.tensor([i for i, tag in enumerate(tags) if tag[:2] in ("B-", "S-")])
    outside = torch.tensor([IGNORED, tags.index("O")])
    some = features.filter(lambda labels: any(x != IGNORED for x in labels), input_columns="topic_sentiment_labels")
    loader = DataLoader(some.sort("length"), batch_size, collate_fn=TSNCollator(tokenizer))
    states, classes = [], []
    for batch in tqdm(loader, "reading", unit="batch"):
        inputs = {name: batch[name].to(model.device) for name in tokenizer.model_input_names}
        with torch.inference_mode():
            hidden = model.backbone(**inputs).last_hidden_state.double().cpu()  # (batch, tokens, hidden)
        in_topic = ~torch.isin(batch["topic_labels"], outside)  # (batch, tokens); targets lie outside, too
        known = (batch["topic_sentiment_labels"] != IGNORED) & in_topic  # (batch, tokens)
        begin = torch.isin(batch["topic_labels"], begins)  # (batch, tokens)
        topic = begin.flatten().cumsum(0).reshape(known.shape)[known]  # (words,)
        _, of, sizes = topic.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(sizes), hidden.shape[-1], dtype=hidden.dtype).index_add(0, of, hidden[known])
        states.append(sums / sizes[:, None])  # (topics, hidden)
        labels = torch.zeros(len(sizes), dtype=torch.int64)
        labels[of] = batch["topic_sentiment_labels"][known]  # all words of a topic have the same
        classes.append(labels)
    if not sum(map(len, classes)):
        raise ValueError("no topic in the data has a sentiment")
    return torch.cat(states), torch.cat(classes)


def fit_head(
    states: torch.Tensor, classes: torch.Tensor, count: int, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(count, hidden)` weights and `(count,)` biases that minimise the mean log loss plus `penalty / 2` times the
    squared weights, on standardised states.

    Raises:
        ValueError: all states are of one class.
    """
    mean, scale = states.mean(0), states.std(0).clamp(min=1e-6)  # (hidden,)
    x = ((states - mean) / scale).numpy()  # (topics, hidden)
    present = np.unique(classes)
    # scikit-learn fits two classes as one, whose weights are the difference of the two that are wanted: the penalty
    # on those is half as high.
    two = len(present) == 2
    strength = (2 if two else 1) / (len(x) * penalty)
    fit = LogisticRegression(C=strength, tol=1e-6, max_iter=1000).fit(x, classes.numpy())
    halves = np.array([[-0.5], [0.5]]) if two else 1.0
    weight = np.zeros((count, x.shape[1]))  # (classes, hidden)
    bias = np.full(count, -UNSEEN)  # (classes,)
    weight[present] = halves * fit.coef_
    bias[present] = np.ravel(halves * fit.intercept_ if two else fit.intercept_)
    weight = torch.from_numpy(weight) / scale
    return weight, torch.from_numpy(bias) - weight @ mean


def add_topic_sentiment_head(model: TSNModel, train: tuple, validation: tuple) -> list[dict]:
    """Gives a model a head that is fitted on states and classes, see `topic_states`; returns what was tried.

    Returns:
        List of `{"penalty", "log_loss", "accuracy"}` on the validation data, the best first.
    """
    count, tried = len(model.config.sentiment_labels), []
    for penalty in PENALTIES:
        weight, bias = fit_head(*train, count, penalty)
        logits = validation[0] @ weight.T + bias  # (topics, classes)
        figures = {
            "penalty": penalty,
            "log_loss": round(torch.nn.functional.cross_entropy(logits, validation[1]).item(), 4),
            "accuracy": round((logits.argmax(-1) == validation[1]).double().mean().item(), 4),
        }
        tried.append((figures, weight, bias))
    tried.sort(key=lambda entry: entry[0]["log_loss"])
    _, weight, bias = tried[0]
    # The pipeline divides by the sentiment head's temperature; these logits are calibrated without it.
    temperature = model.config.temperatures["sentiment"]
    model.config.topic_sentiment_head = True
    model.topic_sentiment_head = torch.nn.Linear(weight.shape[1], count)
    with torch.no_grad():
        model.topic_sentiment_head.weight.copy_(weight * temperature)
        model.topic_sentiment_head.bias.copy_(bias * temperature)
    return [entry for entry, *_ in tried]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tsn.training.topic_head",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("--train_file", nargs="+", required=True, help="data whose topics have a sentiment")
    parser.add_argument("--validation_file", nargs="+", required=True, help="other such data")
    parser.add_argument("--output_dir", required=True, help="folder for the model with the new head")
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        examples = []
        for paths in (arguments.train_file, arguments.validation_file):
            rows = (row for path in paths for row in read_rows(path, model.config))
            rows = (row for row in rows if any(topic["sentiment"] for topic in row["topics"] or []))
            examples.append(topic_states(model, tokenizer, rows_to_features(rows, tokenizer, model.config)))
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.training.topic_head: {error}")
    try:
        tried = add_topic_sentiment_head(model, *examples)
    except ValueError as error:
        sys.exit(f"tsn.training.topic_head: {', '.join(arguments.train_file)}: {error}")
    for entry in tried:
        print(entry)
    counts = examples[0][1].bincount(minlength=len(model.config.sentiment_labels)).tolist()
    print(f"Fitted on {dict(zip(model.config.sentiment_labels, counts))}; the model is in {arguments.output_dir}")
    write_hub_folder(model, tokenizer, arguments.output_dir)


if __name__ == "__main__":
    main()
