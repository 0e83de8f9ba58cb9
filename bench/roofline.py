"""What the processor's units reach in one large matrix multiplication, and what a word costs the model.

    python -m bench.roofline SIZE REPEATS CORES

is what `measure` starts, on the cores that it is given: it prints operations a second of each type of number.
"""

import json
import subprocess
import sys
import time

from bench.worker import environment, pin
from tsn.paths import ROOT


def measure(size, repeats, cores):
    """The most operations a second in `(size, size)` matrices: dict of `"fp32"`, `"bf16"` and `"int8"`.

    A multiplication and an addition are two operations. The best of the repeats counts, and of int8 the faster of
    torch and ONNX Runtime, as this is to be a limit.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", "bench.roofline", str(size), str(repeats), json.dumps(cores)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(len(cores)))
    if done.returncode:
        raise RuntimeError(f"the matrix multiplication failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def multiplications(size, threads):
    """Of each type of number, functions without arguments that multiply two `(size, size)` matrices."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.rand(size, size) - 0.5, torch.rand(size, size) - 0.5  # (size, size)
    bytes_a, bytes_b = ((127 * matrix).to(torch.int8) for matrix in (a, b))  # (size, size)
    half_a, half_b = a.bfloat16(), b.bfloat16()  # (size, size)
    return {
        "fp32": [lambda: a @ b],
        "bf16": [lambda: half_a @ half_b],
        "int8": [lambda: torch._int_mm(bytes_a, bytes_b), _onnx_int8(bytes_a, bytes_b, threads)],
    }


def _onnx_int8(a, b, threads):
    """ONNX Runtime's multiplication of unsigned by signed bytes, the second matrix being known beforehand."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    size = len(a)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "int8",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [size, size])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [size, size])],
        [numpy_helper.from_array(b.numpy(), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": (a.numpy().astype(np.int16) + 128).astype(np.uint8)}
    return lambda: session.run(None, feed)


def operations_per_token(model):
    """`(linear, attention)`: operations of a token in the linear layers, and in the attention for each token of the
    row; a row of `n` tokens takes `n * linear + n * n * attention`. Embeddings are looked up and cost nothing here.
    """
    import torch

    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    config = model.config.backbone_config
    return 2 * weights, 4 * config.hidden_size * config.num_hidden_layers


def operations(model, lengths):
    """Operations of rows of so many tokens, padding aside.

    Args:
        model: A `TSNModel`.
        lengths: `(rows,)`, integers.
    """
    linear, attention = operations_per_token(model)
    return int(sum(linear * n + attention * n * n for n in map(int, lengths)))


def main(size, repeats, cores):
    cores = json.loads(cores)
    pin(cores)
    size, found = int(size), {}
    for name, works in multiplications(size, len(cores)).items():
        seconds = []
        for work in works:
            work()  # the first run of all reserves memory
            for _ in range(int(repeats)):
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
        found[name] = 2 * size**3 / min(seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
