# Two commands for a newcomer, each does all set-up by itself: `make run` and `make test`.

VENV := .venv
BIN := $(VENV)/bin
JS := tests/clients/js
AGENTS := tests/clients/agents
GO := tests/clients/go
ARGS ?=
JOBS ?= auto
HOURS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
CLIENTS ?= 200
.PHONY: black-hole joins soak go-clients help run kernel test check lint format fuzz fuzz-kernel prove prove-mutants clean

help:
	@echo "make run    serve the demo on http://localhost:7880 (ARGS=... goes to triosfu run)"
	@echo "make kernel compile the innermost loops of the packet path: less CPU for a packet (docs/packet-path.md)"
	@echo "make test   set up everything, browser included, and run all checks and tests"
	@echo "make check  the same without real browsers and clients (ARGS=... goes to pytest)"
	@echo "make go-clients  the tests with LiveKit's Go SDK alone, which make test skips where there is no Go"
	@echo "make soak   a meeting of ten for two minutes (SECONDS=...), after which nothing may be left"
	@echo "make black-hole  clients whose link goes down (CLIENTS=200), after which nothing may be left"
	@echo "make joins  a thousand clients that join and leave, then 200 at once (JOINS=..., AT_ONCE=...): nothing may be left"
	@echo "make lint   style and types only"
	@echo "make format rewrite the code in the project's style"
	@echo "make fuzz   fuzz every parser and state machine (SECONDS=60 together)"
	@echo "make fuzz-kernel  the same for the compiled kernel alone, under AddressSanitizer and UBSan (SECONDS=60)"
	@echo "make prove  search for counterexamples to the properties of docs/properties.md (HOURS=1, decimals allowed)"
	@echo "make prove-mutants  show that each property can fail: it catches a core that is broken for it"
	@echo "make clean  remove everything that make made"

run: .make/package
	$(BIN)/triosfu run --dev $(ARGS)

kernel: .make/kernel

# A process for each core shares the tests, and one more begins with those that have real clients (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses=$(JOBS)

# pytest comes last, so that its closing line does.
test: lint .make/clients .make/go-client
	@PATH="$(abspath $(BIN)):$$PATH" $(PYTEST) $(ARGS)

check: lint
	@$(PYTEST) --ignore=tests/clients --ignore=tests/conformance $(ARGS)

lint: .make/development
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .make/development
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

fuzz: SECONDS ?= 60
fuzz: .make/fuzzer
	@$(BIN)/python -m fuzz.run --seconds $(SECONDS) $(ARGS)

# The compiled kernel's readers on random bytes, under AddressSanitizer and UBSan.
fuzz-kernel: SECONDS ?= 60
fuzz-kernel: .make/fuzz-kernel
	@.make/fuzz-kernel $(SECONDS)

.make/fuzz-kernel: fuzz/kernel.c $(wildcard kernel/*) .make/kernel
	@cc -g -O1 -std=c11 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=all -o $@ $<

prove: .make/development
	@$(BIN)/python -m tests.properties.prove --hours $(HOURS) $(ARGS)

prove-mutants: .make/development
	@$(BIN)/python -m tests.properties.prove_mutants $(ARGS)

# Ten participants with audio and video for SECONDS, then nothing may be left of them.
soak: SECONDS ?= 120
soak: .make/clients
	MEETING_SECONDS=$(SECONDS) $(BIN)/python -m pytest --timeout=$$(($(SECONDS) + 300)) tests/clients/test_ten.py

go-clients: .make/clients .make/go-client
	@test -x .make/go-client
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest tests/clients/test_go.py $(ARGS)

# Clients whose link goes down at chosen moments, batch after batch (docs/black-hole.md).
black-hole: .make/clients
	@$(BIN)/python -m tests.clients.black_hole --clients $(CLIENTS)

# What a join costs the server, and that nothing is left of it (docs/performance.md).
joins: JOINS ?= 1000
joins: AT_ONCE ?= 200
joins: .make/clients
	@$(BIN)/python -m bench.joins --joins $(JOINS) --at-once $(AT_ONCE)

clean:
	rm -rf .make $(VENV) $(JS)/node_modules $(AGENTS)/node_modules

.make/venv:
	@mkdir -p .make
	.ci/venv $(VENV)
	@touch $@

.make/package: pyproject.toml .make/venv
	$(BIN)/pip install --quiet --editable .
	@touch $@

# The innermost loops of the packet path, compiled: for who wants them, and for the tests.
.make/kernel: .ci/kernel $(wildcard kernel/*) .make/venv
	.ci/kernel $(VENV)
	@touch $@

.make/development: .make/package .make/kernel
	$(BIN)/pip install --quiet --editable '.[test,lint]'
	@touch $@

# atheris has wheels for CPython 3.11 to 3.13.
.make/fuzzer: .make/development
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	@touch $@

# LiveKit's agent workers pin another livekit wheel and another rtc-node than the rest is tested with, so they live by
# themselves: the one for Python here, the one for Node in its folder.
.make/agents.done: $(AGENTS)/requirements.txt .make/venv
	$(BIN)/python -m venv --clear .make/agents
	.make/agents/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# LiveKit's Go SDK in a program of the tests. Where there is no Go there is no program.
.make/go-client: .ci/go $(GO)/go.mod $(GO)/go.sum $(wildcard $(GO)/*.go)
	@mkdir -p .make
	.ci/go $(GO) $@

# What the tests with real clients need: a browser, Node with its packages, and network namespaces.
.make/clients: .make/development .make/agents.done $(wildcard $(JS)/package-lock.json) $(AGENTS)/package-lock.json
	.ci/packages ip=iproute2 node=nodejs npm=npm
	.ci/chromium $(VENV)
	if [ -f $(JS)/package-lock.json ]; then npm ci --prefix $(JS) --no-audit --no-fund --loglevel=error; fi
	npm ci --prefix $(AGENTS) --no-audit --no-fund --loglevel=error
	@touch $@
