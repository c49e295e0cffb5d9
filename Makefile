# `make` lists what there is. Every target does its own set-up on a Debian machine with Rust and Python.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help build binaries images test lint demo bench bench-cdp bench-xds conformance fuzz clean setup up down deploy clean-certs \
        install uninstall

CARGO ?= cargo
FUZZ_SECONDS ?= 60
PREFIX ?= /usr/local

# The property tests try the same cases every time, so that a run says something about the change; `make fuzz` tries new ones.
PROPTEST_RNG_SEED ?= 1
export PROPTEST_RNG_SEED

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-11s\033[0m %s\n", $$1, $$2 }' Makefile

build: ## Build the programs, optimised, into target/release, what sandboxes get of them, and the images
	$(CARGO) build --locked --release --bins
	@sandbox-image/helpers.sh release
	@sandbox-image/images.sh

binaries: ## Build the programs of the host alone, optimised, into target/release
	$(CARGO) build --locked --release --bins

install: build ## Install programs, helpers, completions, man pages, docs and systemd units under PREFIX (default /usr/local; DESTDIR for packages)
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" deploy/install.sh

uninstall: ## Remove what `make install` installed
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" deploy/install.sh --remove

up: ## Run as a service by docker compose: server, Envoy, Prometheus (GRAFANA=1 for Grafana, too)
	@deploy/compose.sh up

down: ## Stop that service; its state stays (VOLUMES=1 removes it, too)
	@deploy/compose.sh down

deploy: ## Deploy the server to Fly.io by fly.toml (needs flyctl, logged in)
	@deploy/compose.sh deploy

clean-certs: ## Remove the certificate authorities and all certificates: the service's, and those of this user's server
	@deploy/compose.sh clean-certs

images: ## Build Docker's images alone: agent-creds-sandbox and agent-creds-envoy (BASE=IMAGE to make them from another)
	@sandbox-image/images.sh

test: setup lint ## Format, lints, documentation, and every test, against a real Envoy
	@CARGO="$(CARGO)" integration/run.sh

lint: ## Format, lints and documentation alone
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

setup: ## What the tests need: Debian packages, Envoy, the Python SDKs, the images, gVisor in Docker
	@integration/setup.sh test

demo: ## The whole story in a minute, on this machine (KEEP=1 leaves it running to play with)
	@KEEP="$(KEEP)" integration/demo.sh

bench: ## Measure against the budgets, on a machine that does nothing else (about four minutes)
	@integration/setup.sh demo
	$(CARGO) bench --locked --bench macaroon --bench vault --bench envoy
	$(CARGO) build --locked --release --bin actl --example actl-load
	@target/release/examples/actl-load
	@if docker info >/dev/null 2>&1; then $(CARGO) build --locked --release --bins && benches/start.sh; \
	else echo "no Docker here: the start of sandboxes is not measured"; fi

conformance: ## Try the xDS server in every case of the protocol, or TARGET=HOST:PORT (CONTROL=SOCKET; BROKEN=1: every case has to fail)
	$(CARGO) run --locked --quiet --example xds-conformance -- $(if $(TARGET),--target $(TARGET)) \
	    $(if $(CONTROL),--control $(CONTROL)) $(if $(BROKEN),--broken --deadline 3)

bench-xds: ## Measure the xDS server with up to 19,000 clients, on a machine that does nothing else (about ten minutes)
	@integration/setup.sh demo
	$(CARGO) build --locked --release --example xds-load
	@benches/xds.sh target/release/examples/xds-load
	BENCH_ONLY=edits BENCH_UPSTREAMS=20,100,500,2000 BENCH_EDITS=50 $(CARGO) bench --locked --bench envoy

bench-cdp: ## Measure Playwright through the filter of the host's Chrome against Chrome itself (about two minutes; needs Docker)
	@integration/setup.sh test
	$(CARGO) build --locked --release --bins
	@sandbox-image/helpers.sh release
	@benches/cdp.sh

fuzz: ## Property tests on new cases, and every fuzz target for FUZZ_SECONDS (default 60) each
	PROPTEST_RNG_SEED=$$(date +%s) PROPTEST_CASES=10000 $(CARGO) test --locked --lib
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	@set -e; for target in $$($(CARGO) fuzz list); do \
	    echo "== $$target"; \
	    $(CARGO) fuzz run --sanitizer none "$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done

clean: ## Remove everything that was built, Envoy and the SDKs included
	$(CARGO) clean
	rm -rf target fuzz/target
