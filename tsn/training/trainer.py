"""The trainer of a TSN model, and its metrics, chunk by chunk."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import EvalPrediction, PreTrainedTokenizerFast, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from configuration_tsn import TSNConfig
from modeling_tsn import LOSSES, summed_cross_entropy, summed_marginal_cross_entropy
from tsn.data.features import IGNORED, TSNCollator
from tsn.evaluation.metric import compute_metrics_from_rows

LABELS = [*(f"{name}_labels" for name in LOSSES), "annotated_entity_types"]
"""What an evaluation collects beside the logits, in this order."""


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient is not a number; the message names the step and the rows."""


class _LengthGroupedSampler(LengthGroupedSampler):
    """The same order for a resumed run and for each of several processes: transformers' own sampler draws from the
    current random state. The loader calls `set_epoch`."""

    def __init__(self, batch_size, lengths, seed):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class TSNTrainer(Trainer):
    """`Trainer` that weighs each label alike, logs each head's loss, and stops before a step that is not a number.

    A loss is the mean over its labels of the whole step, across processes and accumulated batches: many processes or
    accumulation steps end in the same weights as one large batch. The heads have a learning rate of their own, and
    the features' column `row` names the rows that a loss comes from.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the labels of the step; nothing else should
        self._losses = None  # (2, losses): since the last line of the log, the sums of losses and numbers of labels
        self._rows = []  # of the step so far
        clip = self.accelerator.clip_grad_norm_

        def clip_finite(*arguments, **options):
            norm = clip(*arguments, **options)
            if norm is not None and self.accelerator.scaler is None:  # fp16's scaler leaves such a step out by itself
                self._check_finite("norm of the gradient", norm)
            self._rows = []
            return norm

        self.accelerator.clip_grad_norm_ = clip_finite

    def create_optimizer(self):
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    key = (any(part.endswith("_head") for part in name.split(".")), name in decayed)
                    groups.setdefault(key, []).append(parameter)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.args.head_learning_rate if is_head else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                    }
                    for (is_head, is_decayed), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not self.args.group_by_length:
            return super()._get_train_sampler(dataset)
        # By the whole step, so that its parts on all processes are of one length, in the order of one process.
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return _LengthGroupedSampler(step, dataset["length"][:], self.args.seed)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([self.label_counts(batch) for batch in batches]).sum(0)  # (losses,)
        return batches, self.accelerator.reduce(counts.to(device))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        read = {name: value for name, value in inputs.items() if name != "row" and name not in LABELS}
        outputs = self.model_outputs(model, read)
        sums = torch.stack(self.summed_losses(outputs, read, {name: inputs[name] for name in LABELS}))  # (losses,)
        local = counts = self.label_counts(inputs).to(sums.device)  # (losses,)
        if num_items_in_batch is not None:
            # DDP takes the mean of the processes' gradients where the sum of these shares is wanted.
            counts = num_items_in_batch.to(sums.device) / self.accelerator.num_processes
            both = torch.stack([sums.detach(), local])  # (2, losses)
            self._losses = both if self._losses is None else self._losses + both
        weights = torch.tensor(self.loss_weights(), device=sums.device)  # (losses,)
        loss = (weights * sums / counts.clamp(min=1e-9)).sum()
        return (loss, outputs) if return_outputs else loss

    # What a loss is made of; a subclass may add others.

    loss_names: tuple[str, ...] = tuple(LOSSES)

    def loss_weights(self):
        """Of each of `loss_names`."""
        weights = self.model.config.loss_weights
        return [weights[key] for key in LOSSES.values()]

    def label_counts(self, batch):
        """`(losses,)` how many labels each loss is summed over."""
        return torch.stack([(batch[f"{name}_labels"] != IGNORED).sum() for name in LOSSES])  # (losses,)

    def model_outputs(self, model, inputs):
        return model(**inputs)

    def summed_losses(self, outputs, inputs, labels):
        """Each loss, summed over its labels."""
        return _summed_losses(outputs, labels, self.model.config.entity_scheme())

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._rows += inputs["row"]
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_finite("loss", loss)
        return loss

    def _check_finite(self, name, value):
        value = float(value)
        if not math.isfinite(value):
            rows = "\n  ".join(dict.fromkeys(self._rows))
            several = self.args.world_size > 1
            process = f" on process {self.args.process_index}, or on another one" if several else ""
            raise NonFiniteLoss(
                f"Step {self.state.global_step + 1}: the {name} is {value}. The weights were not touched; checkpoints "
                "of earlier steps are good. Try a lower learning rate, or look at the rows of this step"
                f"{process}:\n  {rows}"
            )

    def log(self, logs, start_time=None):
        if "loss" in logs and self._losses is not None:  # not those of an evaluation, nor the last line
            sums, counts = self.accelerator.reduce(self._losses).tolist()
            means = zip(self.loss_names, sums, counts)
            logs.update({f"{name}_loss": round(total / n, 4) for name, total, n in means if n})
            self._losses = None
        super().log(logs, start_time)


def _summed_losses(outputs, labels, scheme):
    """Each loss, summed over its labels; the entity head's is the marginal one where rows leave types open."""
    sums = []
    for name in LOSSES:
        logits, own = outputs[f"{name}_logits"], labels[f"{name}_labels"]
        if name == "ner" and not labels["annotated_entity_types"].all():
            sums.append(summed_marginal_cross_entropy(logits, own, labels["annotated_entity_types"], scheme))
        else:
            sums.append(summed_cross_entropy(logits, own))
    return sums


def check_metric(name: str, features: Dataset, tokenizer: PreTrainedTokenizerFast, config: TSNConfig) -> None:
    """Raises ValueError where an evaluation on these features will not give a metric; the message lists those it will.

    Known before training, so that no epoch is lost to a misspelt name.
    """
    seen: set[tuple[str, int]] = set()
    chosen, first = [], 0  # a chunk with every label that occurs, so that no metric is missing
    for batch in features.select_columns(LABELS[:-1]).iter(1000):
        for i, columns in enumerate(zip(*batch.values())):
            labels = {(key, tag) for key, tags in zip(batch, columns) for tag in np.unique(tags) if tag != IGNORED}
            if labels - seen:
                seen |= labels
                chosen.append(first + i)
        first += i + 1
    batch = TSNCollator(tokenizer)([features[i] for i in chosen])
    gold: Any = [batch[key].numpy() for key in LABELS]
    sizes = [len(getattr(config, f"{kind}_labels")) for kind in ("topic", "ner", "sentiment", "sentiment")]
    right: Any = [np.eye(n, dtype=np.float32)[np.maximum(tags, 0)] for n, tags in zip(sizes, gold)]
    metrics = {"loss", *chunk_metrics(config)(EvalPrediction(right, gold))}
    if name.removeprefix("eval_") not in metrics:
        raise ValueError(
            f"--metric_for_best_model: the validation data give no metric {name!r}; they give "
            f"{', '.join(sorted(metrics))}"
        )


def chunk_metrics(config: TSNConfig) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for the trainer: exact spans and sentiment, chunk by chunk.

    `eval.py` measures whole texts through the pipeline; here a span that a chunk's border cuts is not counted.
    """
    schemes = {"topics": config.topic_scheme(), "entities": config.entity_scheme()}
    names = config.sentiment_labels

    def rows(tags, lengths, scheme, known):
        """The spans of each row, in words; None for a row without labels of this head."""
        out = [[] if is_known else None for is_known in known]
        for row, first, end, kind in zip(*scheme.decode(tags)):
            if known[row] and end <= lengths[row]:
                span = {"start": int(first), "end": int(end), "word": "", "score": 1.0}
                out[row].append({**span, "label": scheme.types[kind]})
        return out

    def compute(prediction):
        outputs = dict(zip((f"{name}_logits" for name in LOSSES), prediction.predictions))
        annotations = dict(zip(LABELS, prediction.label_ids))
        *token_logits, sentiment_logits, span_logits = outputs.values()
        *token_labels, sentiment_labels, span_labels, annotated = annotations.values()
        predicted, gold = {}, {}
        for (head, scheme), logits, labels in zip(schemes.items(), token_logits, token_labels):
            labelled = labels != IGNORED  # (rows, tokens)
            lengths = labelled.sum(1)
            order = np.argsort(~labelled, axis=1, kind="stable")  # tagged words to the front
            order = order[:, : max(lengths.max(), 1)]  # (rows, words)
            words = np.take_along_axis(logits, order[:, :, None], 1)  # (rows, words, tags)
            inside = np.arange(order.shape[1]) < lengths[:, None]  # (rows, words)
            tags = np.where(inside, np.take_along_axis(labels, order, 1), scheme.labels.index("O"))  # (rows, words)
            predicted[head] = rows(scheme.viterbi(words, lengths), lengths, scheme, lengths > 0)
            gold[head] = rows(tags, lengths, scheme, lengths > 0)
        known = [label != IGNORED for label in sentiment_labels]
        best = sentiment_logits.argmax(-1)
        predicted["sentiment"] = [names[i] for i in best]
        gold["sentiment"] = [names[i] if k else None for i, k in zip(sentiment_labels, known)]
        for spans, types in zip(predicted["entities"], annotated):
            if spans:  # nothing is known of the types that were not annotated
                spans[:] = [span for span in spans if types[schemes["entities"].types.index(span["label"])]]
        for head in schemes:  # the metric takes a list where the gold is None
            predicted[head] = [spans or [] for spans in predicted[head]]
        to_rows = lambda columns: [dict(zip(columns, values)) for values in zip(*columns.values())]  # noqa: E731
        metrics = compute_metrics_from_rows(to_rows(predicted), to_rows(gold))
        metrics = {name: value for name, value in metrics.items() if "@" not in name}  # those need the phrases' text
        of_spans = span_labels != IGNORED  # (rows, tokens)
        if of_spans.any():  # word by word
            best, gold_classes = span_logits[of_spans].argmax(-1), span_labels[of_spans]
            metrics["topic_sentiment_accuracy"] = float((best == gold_classes).mean())
            classes = np.unique(gold_classes)  # as the metric does, over the classes that occur
            metrics["topic_sentiment_macro_f1"] = float(
                f1_score(gold_classes, best, labels=classes, average="macro", zero_division=0)
            )
        tensors = ({k: torch.from_numpy(v) for k, v in arrays.items()} for arrays in (outputs, annotations))
        for name, total in zip(LOSSES, _summed_losses(*tensors, schemes["entities"])):
            count = (annotations[f"{name}_labels"] != IGNORED).sum()
            if count:
                metrics[f"{name}_loss"] = float(total / count)
        return metrics

    return compute
