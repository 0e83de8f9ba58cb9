"""The picture of the curve: quality against words a second, a panel for each kind of answer."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tsn.hub.curve import METRICS

MODELS = {"TSN": "#1a73e8", "TSN, half": "#188038", None: "#e8710a"}
NAMES = {
    "TSN": "TSN, all three tasks in one read",
    "TSN, half": "TSN of half the depth",
    None: "others, one task each",
}
GAP = 0.034  # of the width of a panel, between labels


def plot(record, path):
    """Draws `path`, a PNG of 1500 x 1150 pixels: large points on one core, joined to pale ones on two."""
    figure = Figure(figsize=(10, 7.7), layout="constrained")
    counts = list(record["limits"])
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, METRICS.items()):
        axes.set_xscale("log")
        axes.set(ylim=(0, 1.3), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1], title=title)  # room for the names
        axes.set_xlabel("words a second", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        points, seen = [], []
        for system in record["systems"]:
            speeds = [system["speed"][count]["per_second"]["median"] for count in counts]
            colour = MODELS[system["model"]]
            if metric in system["quality"]:
                value = system["quality"][metric]["mean"]
                axes.plot(speeds, [value] * len(speeds), "-", color=colour, alpha=0.35, lw=1)
                axes.plot(speeds[1:], [value] * len(speeds[1:]), "o", color=colour, alpha=0.35, ms=5)
                axes.plot(speeds[:1], [value], "o", color=colour, ms=7)
                points.append((system, speeds[0], value))
                seen += speeds
                if system["model"] is None:
                    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
                    place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
                    axes.annotate(system["name"], (speeds[-1], value), color=colour, bbox=white, zorder=5, **place)
            elif not system["quality"]:  # nothing but its speed is known
                axes.axvline(speeds[0], color=colour, ls=":", lw=1.2)
                place = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 8, "color": colour}
                axes.text(speeds[0], 0.98, f"{system['name']} (speed alone)", transform=_across(axes), **place)
                seen += speeds
        axes.set_xlim(min(seen) / 1.6, max(seen) * 2.5)
        for model, above in (("TSN", True), ("TSN, half", False)):
            _label(axes, [point for point in points if point[0]["model"] == model], above, MODELS[model])
    found = dict.fromkeys(system["model"] for system in record["systems"])
    handles = [Line2D([], [], marker="o", ls="", color=MODELS[model], label=NAMES[model]) for model in found]
    pale = Line2D([], [], marker="o", ls="-", color="#5f6368", alpha=0.35, ms=5, label="the same on two cores")
    handles.insert(0, Line2D([], [], marker="o", ls="", color="#5f6368", ms=7, label="on one core"))
    figure.legend(
        handles=[*handles, *([pale] if len(counts) > 1 else [])], loc="outside lower center", ncols=3, fontsize=9
    )
    figure.savefig(path, dpi=150)


def _across(axes):
    """Across in data, up and down in shares of the panel."""
    return axes.get_xaxis_transform()


def _label(axes, points, above, colour):
    """Upright names above or below points, side by side without overlap, each with a line to its point."""
    if not points:
        return
    points = sorted(points, key=lambda point: point[1])
    to_share = axes.transAxes.inverted().transform
    places = [to_share(axes.transData.transform((speed, value))) for _, speed, value in points]  # shares of the panel
    wanted = spread_out([x for x, _ in places], GAP)
    edge = max(y for _, y in places) + 0.07 if above else min(y for _, y in places) - 0.07
    for (system, *_), (x, y), label_x in zip(points, places, wanted):
        name = system["name"].removeprefix(f"{system['model']}, ")
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(label_x, edge),
            xycoords="axes fraction",
            textcoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom" if above else "top",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkB": 3},
        )


def spread_out(places, gap):
    """Places in rising order, moved apart to at least `gap` and, as a whole, no further than they must be."""
    groups = []  # [sum of the places that its members want for its first, number of members]
    for i, place in enumerate(places):
        groups.append([place - i * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, number = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += number
    starts = [total / number for total, number in groups for _ in range(number)]
    return [start + i * gap for i, start in enumerate(starts)]
