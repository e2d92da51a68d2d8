# make serve    the demo fleet on http://127.0.0.1:8000; FLEET=path and ARGS="--port 8001" change it
# make test     the tests, in two processes; ARGS="-k name" picks, WORKERS=0 runs them in one
# make test-long   the faults that take minutes each
# make check    lint, format, types, import arrows
# make bench    the benchmarks
# make lock     the locks anew, after a change in pyproject.toml; ARGS="--upgrade-package NAME"

# A boot imports the same thousands of modules in a dozen processes: reading their bytecode halves its CPU time.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
FLEET ?=
ARGS ?=
WORKERS ?= 2

.PHONY: serve test test-long check bench install lock format clean

serve: .venv/installed
	@$(BIN)/penstock serve $(FLEET) $(ARGS)

test: .venv/installed
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-long: .venv/installed
	@$(BIN)/python -m pytest -m long $(ARGS)

check: .venv/installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv/installed
	@$(BIN)/python -m tests.benchmarks $(ARGS)

install: .venv/installed

.venv/installed: pyproject.toml $(wildcard locks/*.txt) scripts/install
	@scripts/install
	@touch $@

lock: .venv/installed
	@scripts/lock $(ARGS)

format: .venv/installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
