"""`tsn/evaluation/plots.py`: each writes a picture, also of little or nothing."""

import matplotlib.image
import pytest

from tsn.evaluation.plots import plot_confusion, plot_learning_curves, plot_reliability

LOG = [
    {"step": 1, "loss": 3.0, "topic_loss": 1.0, "ner_loss": 1.5, "sentiment_loss": 0.5},
    {"step": 2, "eval_topic_loss": 1.1, "eval_topic_f1": 0.2, "eval_score": 0.2},
]
BINS = [{"score": 0.4, "accuracy": 0.5, "count": 3}, {"score": 0.9, "accuracy": 0.8, "count": 30}]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plot_learning_curves(LOG, path),
        lambda path: plot_learning_curves([], path),
        lambda path: plot_confusion([[3, 1], [0, 0]], ["a", "b"], path, "Title"),
        lambda path: plot_reliability({"topic": {"bins": BINS, "ece": 0.1}}, path),
        lambda path: plot_reliability(
            {task: {"bins": BINS, "ece": 0.1} for task in ("topic", "ner", "sentiment")}, path
        ),
    ],
)
def test_pictures_are_written(tmp_path, draw):
    draw(tmp_path / "picture.png")
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert min(pixels.shape[:2]) > 200 and pixels[..., :3].min() < 0.5 < pixels[..., :3].max()


def test_learning_curves_show_what_was_logged(tmp_path):
    """Where nothing was validated, there is no second panel."""
    losses = [{name: value for name, value in entry.items() if not name.startswith("eval_")} for entry in LOG]
    for name, log in (("some.png", LOG), ("losses.png", losses), ("none.png", [])):
        plot_learning_curves(log, tmp_path / name)
    some, half, none = (matplotlib.image.imread(tmp_path / name) for name in ("some.png", "losses.png", "none.png"))
    assert some.shape[1] > half.shape[1] and half.shape == none.shape and (half != none).any()
