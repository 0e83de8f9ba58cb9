"""Serves the model over HTTP: requests of many callers are analysed together, by one process a core.

    python serve.py --port 8000
    curl localhost:8000/predict -d '{"inputs": "Great screen, says Ana.", "parameters": {"top_k": 5}}'

    POST /predict         {"inputs": a text or [texts], "parameters": {...}}: as an Inference Endpoint answers it
    POST /predict/stream  such a request in each line, an answer in each line, for inputs of any length
    GET  /health          200 once the model has answered a text
    GET  /metrics         for Prometheus
    GET  /docs            the OpenAPI description, with examples
    GET  /                a page to try a text on

It listens on this machine alone unless --host says otherwise. SIGTERM lets it answer what it has taken, and end.
"""

import sys

from tsn.serving.arguments import build_parser


def main(argv=None):
    arguments = build_parser(__doc__).parse_args(argv)
    try:
        from tsn.serving.run import serve  # here, as worker processes import this file again
    except ImportError as error:
        sys.exit(f"serve.py: {error}; pip install -r requirements/serve.txt")
    try:
        serve(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.exit(f"serve.py: {error}")


if __name__ == "__main__":
    main()
