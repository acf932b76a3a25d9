PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SIZE   ?= small

# Nothing but what the locks name by its hash: no source that would be built with what nobody locked, and no build of
# ours in a place of its own, which would fetch the newest tools for it.
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
	--no-compile
COMPILE := $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-nightly test-worlds test-keycloak test-keycloak-newest test-browser test-openapi check bench up lock clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

demo: $(VENV)/ready  ## The whole road on a made-up company, and then the end
	@$(BIN)/crowdsync demo $(if $(IDP),--idp $(IDP))

test: $(VENV)/ready  ## All tests but the long ones (PostgreSQL's where its binaries are)
	@$(BIN)/python -m pytest -n 3 --dist loadscope -m "not long and not nightly"

test-long: $(VENV)/ready  ## The long ones: the rest of all generated worlds, policies and moments to die at
	@$(BIN)/python -m pytest -n 3 --dist loadscope -m long

test-nightly: $(VENV)/ready  ## What takes too long for every change: not in CI
	@$(BIN)/python -m pytest -n 2 --dist loadscope -m nightly

test-worlds: $(VENV)/ready  ## 10,000 generated worlds of the narrow road: what a few decide is what everybody would (an hour; not in CI)
	@CROWDSYNC_TOGETHER=48 CROWDSYNC_SEEDS=210 $(BIN)/python -m pytest -n 2 --dist load -rP tests/property/test_named.py -k whatever_way

test-browser: $(VENV)/ready  ## An admin at the Prefect UI, in chromium (needs chromium, and some minutes)
	@$(BIN)/python -m pytest tests/browser/real_browser.py

test-keycloak: $(VENV)/ready  ## The whole road from a real Keycloak, and real time (needs Java 17 and Maven, and some minutes)
	@$(BIN)/python -m pytest tests/keycloak/real_keycloak.py tests/keycloak/real_webhook.py

test-keycloak-newest: $(VENV)/ready  ## The newest Keycloak, also as a SCIM server and by its security events; not in CI
	@CROWDSYNC_KEYCLOAK=26.7.3 $(BIN)/python -m pytest tests/keycloak/real_keycloak.py tests/keycloak/real_scim_and_events.py

test-openapi: $(VENV)/ready  ## The receiver under requests that Schemathesis generates (fetches it, and some minutes)
	@$(BIN)/python -m pytest tests/openapi/real_openapi.py

check: $(VENV)/ready  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: $(VENV)/ready  ## Each stage beside its floor: make bench SIZE=small|large [IDP=okta|all: reading it]
	@$(BIN)/python -m tests.bench$(if $(IDP),.sources --idp $(IDP)) --size $(SIZE)
	@$(if $(IDP),,$(BIN)/python -m tests.bench.policy --size $(SIZE))

up: $(VENV)/ready  ## Sandbox, Prefect server, UI, deployments, worker, receive and react, until Ctrl-C
	@$(BIN)/crowdsync up $(if $(IDP),--idp $(IDP))

lock: $(VENV)/ready  ## Write requirements.lock anew from pyproject.toml, and tools.lock
	@$(INSTALL) -r tools.lock
	@$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	@echo uv | $(COMPILE) - -o tools.lock

clean:  ## Remove what the others made
	rm -rf $(VENV) .cache .crowdsync bench.json

$(VENV)/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crowdsync needs Python 3.11 or newer; name one with make PYTHON=…")'
	@echo "Setting up $(VENV) (a minute or two, once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true  # as pip would, on one core after the other
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-index --no-build-isolation -e .
	@touch $@
