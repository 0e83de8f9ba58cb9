"""Three models in place of one: transformers' own pipelines for topics, entities and sentiment, on one backbone."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
    set_seed,
)

BATCH_SIZE = 32
TASKS = {"topics": "token-classification", "entities": "token-classification", "sentiment": "text-classification"}


def save_models(model, tokenizer, folder):
    """Writes the three models with the backbone and heads of a TSN model, in fp16 as TSN's own weights are.

    The sentiment model pools in its own way, with weights that TSN lacks and that stay random: it is only timed.

    Args:
        model: A `TSNModel`.
        tokenizer: Its tokenizer.
        folder: Gets a folder of each name in `TASKS`.
    """
    config = model.config
    heads = {
        "topics": (AutoModelForTokenClassification, config.topic_labels, model.topic_head),
        "entities": (AutoModelForTokenClassification, config.ner_labels, model.ner_head),
        "sentiment": (AutoModelForSequenceClassification, config.sentiment_labels, model.sentiment_head),
    }
    set_seed(0)
    for name, (auto_class, labels, head) in heads.items():
        settings = type(config.backbone_config).from_dict(config.backbone_config.to_dict())
        settings.id2label = dict(enumerate(map(_as_bio, labels)))
        settings.label2id = {label: i for i, label in settings.id2label.items()}
        single = auto_class.from_config(settings, dtype=torch.float32)
        single.base_model.load_state_dict(model.backbone.state_dict(), strict=False)  # the pooler is TSN's to lack
        if isinstance(single.classifier, torch.nn.Linear):
            single.classifier.load_state_dict(head.state_dict())
        weights = {key: value.half() for key, value in single.state_dict().items()}
        single.save_pretrained(Path(folder) / name, state_dict=weights)
        tokenizer.save_pretrained(Path(folder) / name)


def _as_bio(label):
    # transformers' aggregation knows B- and I- alone.
    return {"E-": "I-", "S-": "B-"}.get(label[:2], label[:2]) + label[2:]


class ThreePipelines:
    """The three pipelines, one after the other over the same texts.

    Args:
        folder: As `save_models` wrote it.
    """

    def __init__(self, folder):
        self.pipes = []
        for name, task in TASKS.items():
            options = {"aggregation_strategy": "simple"} if task == "token-classification" else {}
            tokenizer = AutoTokenizer.from_pretrained(Path(folder) / name)
            self.pipes.append(
                pipeline(
                    task,
                    model=str(Path(folder) / name),
                    tokenizer=tokenizer,
                    device="cpu",
                    dtype=torch.float32,
                    **options,
                )
            )

    def __call__(self, texts):
        """The three pipelines' results, one list each, for a list of texts short enough for the model."""
        return [pipe(texts, batch_size=BATCH_SIZE) for pipe in self.pipes]
