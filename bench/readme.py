"""Fills the README's tables from recorded results, so that no figure is typed by hand: `python bench/readme.py`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of the package

from bench.report import ratio, summary
from metric_tsn import MAIN_METRICS
from table_tsn import markdown_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def sections():
    """`{name: Markdown}` of everything that stands between `<!-- name -->` and `<!-- /name -->`."""
    fp32 = json.loads((ROOT / "eval_results.json").read_text(encoding="utf-8"))
    int8 = json.loads((RESULTS / "int8" / "eval_results.json").read_text(encoding="utf-8"))
    report = json.loads((RESULTS / "int8" / "quantization_report.json").read_text(encoding="utf-8"))
    bench = json.loads((RESULTS / "bench.json").read_text(encoding="utf-8"))
    return {
        "results": (ROOT / "eval_results.md").read_text(encoding="utf-8"),
        "int8": int8_section(fp32, int8, report),
        "bench": summary(bench),
        "multitask": training_section(),
    }


def training_section():
    """One model beside three and beside an adapter, and how fast `train.py` trains."""
    runs = json.loads((RESULTS / "multitask.json").read_text(encoding="utf-8"))
    speed = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))
    cpu = runs["machine"]
    return (
        f"{(RESULTS / 'multitask.md').read_text(encoding='utf-8')}\n"
        f"{cpu['cores']} cores of an {cpu['cpu']}; one run each. `train.py` has "
        f"{ratio(speed['throughput_ratio'])} of the throughput of a bare loop over the same batches.\n"
    )


def int8_section(fp32, int8, report):
    """Accuracy on the test split and bytes, fp32 beside int8."""
    trial = report["trials"][-1]
    if int8["weights_sha256"] != report["files"]["model_quantized.onnx"]["sha256"]:
        raise ValueError("bench/results/int8: eval_results.json was measured on another file than the report's")
    if fp32["weights_sha256"] != report["weights_sha256"]:
        raise ValueError("eval_results.json was measured on other weights than bench/results/int8's")
    names = list(MAIN_METRICS.values())
    lines = [["Test split", "ONNX MB", *names]]
    for name, file, results in (("fp32", "model.onnx", fp32), ("int8", "model_quantized.onnx", int8)):
        metrics = [f"{results['results']['all'][metric]:.4f}" for metric in names]
        lines.append([name, f"{report['files'][file]['bytes'] / 1e6:.1f}", *metrics])
    kept = ", ".join(f"`{layer.strip('/')}`" for layer in trial["fp32_layers"]) or "none"
    machine = report["processor"]
    files = ", ".join(report["eval_files"])
    gate = f"--max_drop {report['max_drop']} on {files}" if files else "without a gate"
    return (
        f"{markdown_table(lines)}\n"
        f"Quantized on {machine['name']} ({', '.join(machine['features'])}) with the preset `{report['preset']}`, "
        f"{gate}. Layers left in fp32: {kept}.\n"
    )


def fill(text, contents):
    """The text with each section's content between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, content in contents.items():
        head, found, rest = text.partition(f"<!-- {name} -->\n")
        _, closed, tail = rest.partition(f"<!-- /{name} -->")
        if not found or not closed:
            raise ValueError(f"README.md has no <!-- {name} --> ... <!-- /{name} -->")
        text = f"{head}{found}{content}{closed}{tail}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), sections()), encoding="utf-8")
