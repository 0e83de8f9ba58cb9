"""Plots of a training run and of an evaluation. Each function writes a PNG."""

import numpy as np
from matplotlib.figure import Figure

from tsn.heads import MAIN_METRICS

COLOURS = {"topic": "#1a73e8", "ner": "#e8710a", "sentiment": "#188038", "topic_sentiment": "#9334e6"}
NAMES = {"topic": "topics", "ner": "entities", "sentiment": "sentiment", "topic_sentiment": "sentiment of topics"}
METRICS = {**MAIN_METRICS, "topic_sentiment": "topic_sentiment_macro_f1"}


def plot_learning_curves(log, path):
    """Losses of the heads in training and in validation, and where there was one their main metrics, by step.

    Args:
        log: The trainer's `log_history`.
        path: Where the PNG goes.
    """
    validated = any(name.startswith("eval_") for entry in log for name in entry)
    figure = Figure(figsize=(11 if validated else 6, 4.2), layout="constrained")
    losses, *others = figure.subplots(1, 1 + validated, squeeze=False)[0]
    for task, colour in COLOURS.items():
        _line(losses, log, f"{task}_loss", "-", color=colour, label=f"{NAMES[task]}, training", alpha=0.6)
        _line(losses, log, f"eval_{task}_loss", "o--", color=colour, label=f"{NAMES[task]}, validation")
        for metrics in others:
            _line(metrics, log, f"eval_{METRICS[task]}", "o-", color=colour, label=METRICS[task])
    for metrics in others:
        _line(metrics, log, "eval_score", "o:", color="#3c4043", label="score: their mean")
        metrics.set_ylabel("on the validation data")
    losses.set_ylabel("cross-entropy, nats per label")
    losses.set_ylim(bottom=0)
    for axes in (losses, *others):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
        else:
            axes.text(0.5, 0.5, "nothing was logged", ha="center", va="center", transform=axes.transAxes)
    figure.savefig(path, dpi=150)


def _line(axes, log, name, style, **options):
    points = [(entry["step"], entry[name]) for entry in log if name in entry]
    if points:
        axes.plot(*zip(*points), style, **options)


def plot_confusion(counts, labels, path, title):
    """A confusion matrix: the colour of a cell is its share of the true label's row, the text its count.

    Args:
        counts: `(true, predicted)` counts.
        labels: Names of the rows and columns.
        path: Where the PNG goes.
        title: Title of the figure.
    """
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (true, predicted)
    size = 1.8 + 0.9 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        colour = "white" if shares[i, j] > 0.5 else "black"
        text = f"{counts[i, j]:,}\n{shares[i, j]:.0%}"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("annotated")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=150)


def plot_reliability(heads, path):
    """Reliability diagrams: how often answers with a given score are right, and how many there are.

    Args:
        heads: `{name: {"bins": ..., "ece": ...}}`, bins as `tsn.evaluation.calibration.reliability` gives them.
        path: Where the PNG goes.
    """
    figure = Figure(figsize=(1 + 3.4 * len(heads), 4.4), layout="constrained")
    all_axes = figure.subplots(2, len(heads), squeeze=False, height_ratios=[3, 1], sharex=True)
    for (task, head), (axes, below) in zip(heads.items(), all_axes.T):
        scores, accuracies, counts = ([b[key] for b in head["bins"]] for key in ("score", "accuracy", "count"))
        axes.plot([0, 1], [0, 1], color="#9aa0a6", lw=1, ls="--")
        axes.plot(scores, accuracies, "o-", color=COLOURS[task])
        axes.set_title(f"{NAMES[task]}: ECE {head['ece']:.3f}", fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        below.bar(scores, counts, width=0.05, color=COLOURS[task])
        below.set_xlabel("score")
        for each in (axes, below):
            each.spines[["top", "right"]].set_visible(False)
    all_axes[0, 0].set_ylabel("share of right answers")
    all_axes[1, 0].set_ylabel("answers")
    figure.savefig(path, dpi=150)
