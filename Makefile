# SKD Edge: `make run` is the whole story, `make test` all checks and tests. Needs Python >= 3.10 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
MINUTES ?= 9

.PHONY: help install run demo check test nightly gpu docs results clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv and install everything that trains, exports, serves and tests

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@

run: $(STAMP) ## train on the embedded digits, export, verify, build engines, classify
	@$(BIN)/python training/run.py --arch mobilenetv2 --drg --dsr
	@$(BIN)/python export/run.py
	@if $(BIN)/python -c 'import tensorrt_rtx' 2>/dev/null; then $(BIN)/python export/build_trt.py; \
	else echo 'tensorrt-rtx is not installed: no engines built (pip install -e ".[rtx]")'; fi
	@$(BIN)/python -m runtime classify runs/latest/bundle/examples
	@echo
	@echo "run:     $$(readlink -f runs/latest)   (result.json, curves.png, confusion.png)"
	@echo "bundle:  $$(readlink -f runs/latest)/bundle   (model.onnx, card.json, engines/)"
	@echo "next:    $(BIN)/python demo/app.py              the page, on your own images"
	@echo "         $(BIN)/python -m runtime bench         how fast it is here"
	@echo "         $(BIN)/python training/run.py --help   your own data: --data FOLDER"

demo: $(STAMP) ## open the page on the newest run
	$(BIN)/python demo/app.py

check: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) ## all tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

nightly: $(STAMP) ## what is too long for every day: 10,000 fuzzed images, compiled kernels, a minute of reloads, a cut cable, a Ray cluster that loses a node, trackers, 200,000 pictures, the lowest versions of every extra
	SKD_EDGE_NIGHTLY=1 $(BIN)/python -m pytest tests/runtime/model/test_hostile_images.py tests/runtime/server/test_reload.py \
	tests/training/engine/test_start_trainer.py tests/training/engine/test_hosts.py \
	tests/export/triton_server/test_cluster_manifests.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/large_data.py runs/large-data --remove
	$(BIN)/python -m pip install --quiet --group nightly
	$(BIN)/python -m pytest tests/project/test_clusters.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/project/lower_bounds.py

gpu: $(STAMP) ## on a machine with a GPU: pairs of trainings, GPU tests, cost and engines, in MINUTES (9); goes on with each call
	$(BIN)/python tests/gpu/minutes.py run --minutes $(MINUTES) --out runs/minutes-out
	$(BIN)/python tests/gpu/minutes.py plan --minutes $(MINUTES)

docs: $(STAMP) ## write the table of files in docs/architecture.md anew
	$(BIN)/python tests/project/file_table.py

results: $(STAMP) ## write the tables and plots of RESULTS.md anew from the lines in results/
	$(BIN)/python training/report.py

clean: ## remove the environment and caches, keep runs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
