# The server of docs/serving.md. The model is a folder or volume at /model, or is baked in: see there.
FROM python:3.11-slim

# A user of its own, who owns nothing here but a home for caches.
RUN useradd --create-home --uid 1000 tsn
WORKDIR /app

COPY requirements/serve.txt requirements/serve.txt
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install --no-cache-dir -r requirements/serve.txt

COPY configuration_tsn.py modeling_tsn.py tagging_tsn.py chunking_tsn.py pipeline_tsn.py graph_tsn.py \
    onnx_tsn.py openvino_tsn.py ./
COPY handler.py highlight_tsn.py serve.py ./
COPY tsn tsn

USER 1000
ENV TSN_MODEL=/model PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "serve.py", "--host", "0.0.0.0", "--port", "8000"]
