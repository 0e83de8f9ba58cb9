"""The picture of the curve: quality against words a second, a column for each kind of answer, a row for each number
of cores."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tsn.hub.curve import METRICS

MODELS = {"TSN": "#1a73e8", "TSN, half": "#188038", None: "#e8710a"}
NAMES = {
    "TSN": "TSN, all three tasks in one read",
    "TSN, half": "TSN of half the depth",
    None: "others, one task each",
}
ENGINES = {"torch": "o", "ONNX": "s", "OpenVINO": "^"}
PRECISIONS = {"fp32": "none", "bf16": "left", "int8": "full"}  # how much of a marker is filled


def plot(record, path):
    """Draws `path`, a PNG 2,100 pixels wide: colours for models, shapes for engines, filled for fewer bits.

    The words a second are those that TSN reaches; what is slower or faster by far stands at the edge, with its speed.
    """
    counts = list(record["limits"])
    speeds = [
        of["per_second"]["median"]
        for system in record["systems"]
        if system["model"]
        for of in system["speed"].values()
    ]
    edges = min(speeds) / 1.5, max(speeds) * 1.8
    figure = Figure(figsize=(14, 1.2 + 3.2 * len(counts)), layout="constrained")
    grid = figure.subplots(len(counts), len(METRICS), squeeze=False, sharex=True, sharey=True)
    for count, row in zip(counts, grid):
        row[0].set_ylabel(f"on {count} {'core' if count == '1' else 'cores'}", fontsize=11)
        for axes, metric in zip(row, METRICS):
            axes.set_xscale("log")
            axes.set(xlim=edges, ylim=(0, 1))
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            for system in record["systems"]:
                _draw(axes, system, metric, system["speed"][count]["per_second"]["median"], edges)
    for axes, title in zip(grid[0], METRICS.values()):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("words a second", fontsize=9)
    figure.legend(handles=_legend(record), loc="outside lower center", ncols=9, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


def _draw(axes, system, metric, speed, edges):
    if system["quality"] and metric not in system["quality"]:
        return
    name, value = system["name"], system["quality"].get(metric, {"mean": 0.05})["mean"]
    if not system["quality"]:
        name += " (speed alone)"
    style, label = _marker(system), {"xytext": (0, 8), "ha": "center"}
    slow, fast = speed < edges[0], speed > edges[1]
    if slow or fast:
        name += f": {speed:,.0f}"
        style |= {"marker": "<" if slow else ">", "clip_on": False}
        label = {"xytext": (9 if slow else -9, -3), "ha": "left" if slow else "right"}
    colour, at = MODELS[system["model"]], min(max(speed, edges[0]), edges[1])
    axes.plot(at, value, color=colour, markerfacecoloralt="white", **style)
    if system["model"] is None:
        axes.annotate(name, (at, value), textcoords="offset points", fontsize=9, color=colour, **label)


def _marker(system):
    if system["model"] is None:
        return {"marker": "D", "ms": 6}
    return {"marker": ENGINES[_engine(system)], "ms": 8, "fillstyle": PRECISIONS[system["precision"]]}


def _engine(system):
    return system["name"].split()[-2]  # before the type of number


def _legend(record):
    """Of what is in the record: colours, then shapes, then how a marker is filled."""
    grey = {"ls": "", "color": "#5f6368", "markerfacecoloralt": "white", "ms": 8}
    models = dict.fromkeys(system["model"] for system in record["systems"])
    ours = [system for system in record["systems"] if system["model"]]
    handles = [Line2D([], [], marker="D", ls="", color=MODELS[model], label=NAMES[model]) for model in models]
    for engine, marker in ENGINES.items():
        if any(_engine(system) == engine for system in ours):
            handles.append(Line2D([], [], marker=marker, label=engine, **grey))
    for precision, fill in PRECISIONS.items():
        if any(system["precision"] == precision for system in ours):
            handles.append(Line2D([], [], marker="o", fillstyle=fill, label=precision, **grey))
    return handles
