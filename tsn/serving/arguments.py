"""The options of `serve.py`."""

import argparse
import os

from tsn.paths import ROOT

MODEL = os.environ.get("TSN_MODEL") or str(ROOT)


def build_parser(description=None):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=MODEL, help="folder or Hub id (default: TSN_MODEL, or the model in this folder)"
    )
    parser.add_argument(
        "--openvino_file",
        metavar="FILE",
        help="file in the model's openvino/ folder to run (default: int8 if the model has it, in ONNX Runtime, "
        "or in OpenVINO if there is only that; otherwise PyTorch)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one and says which")
    parser.add_argument(
        "--api_key",
        default=os.environ.get("TSN_API_KEY"),
        metavar="KEY",
        help="what callers have to send as `Authorization: Bearer KEY`; the variable TSN_API_KEY is safer, as other "
        "users of a machine see the options of a command (default: none)",
    )

    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--workers",
        type=int,
        default=_usable_cores(),
        metavar="N",
        help="processes, each with a core and a copy of the model (default: the cores that this process may use)",
    )
    speed.add_argument(
        "--max_wait_ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="how long a text waits for others to be analysed together with (default: 5)",
    )

    limits = parser.add_argument_group("limits")
    for name, default, meaning in (
        ("max_queue", 4096, "texts that are waiting or being analysed; 503 beyond"),
        ("max_texts", 1000, "texts in a request; 422 beyond"),
        ("max_characters", 1_000_000, "characters of a text; 422 beyond"),
        ("max_body", 8_000_000, "bytes of a request, or of a line of a stream; 413 beyond"),
    ):
        limits.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    limits.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="that a request may take, from its last byte to its answer; 504 beyond (default: 300)",
    )
    limits.add_argument(
        "--sender_timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="that the headers and then the body of a request may take to arrive, and that a stream may pause; 408 "
        "beyond (default: 30)",
    )
    return parser


def check_arguments(arguments):
    """Raises ValueError, which names the option, unless every option is in its range."""
    for name in ("workers", "max_queue", "max_texts", "max_characters", "max_body"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    for name in ("timeout", "sender_timeout"):
        if not 0 < getattr(arguments, name) < 1e6:
            raise ValueError(f"--{name} must be a number of seconds above 0, not {getattr(arguments, name)}")
    if not 0 <= arguments.max_wait_ms <= 1000:
        raise ValueError(f"--max_wait_ms must be from 0 to 1000, not {arguments.max_wait_ms}")
    if not 0 <= arguments.port < 65536:
        raise ValueError(f"--port must be from 0 to 65535, not {arguments.port}")
    if arguments.max_texts > arguments.max_queue:
        raise ValueError(f"--max_texts ({arguments.max_texts}) must not exceed --max_queue ({arguments.max_queue})")
    if arguments.api_key is not None and not (arguments.api_key.isascii() and arguments.api_key.strip()):
        raise ValueError("--api_key must be ASCII characters and not empty")


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
