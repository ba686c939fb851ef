# The entry points of the project. `make` lists them.

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: help demo test differential regress regress-audit lint instructions bench pgbench

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{ printf "  make %-13s %s\n", $$1, $$2 }'

demo: ## PostgreSQL, pgsluice in front of it and 500 clients, all thrown away afterwards
	@scripts/demo.sh

test: ## all tests, those against a real PostgreSQL and real drivers included
	scripts/test-deps.sh
	$(CARGO) test --workspace

differential: ## 100,000 generated message sequences per version of PostgreSQL, from a new seed
	scripts/test-deps.sh
	PGSLUICE_DIFF_SEQUENCES=$${PGSLUICE_DIFF_SEQUENCES:-100000} PGSLUICE_DIFF_SEED=$${PGSLUICE_DIFF_SEED:-random} \
		$(CARGO) test --release -p pgsluice-tests --test differential -- --nocapture --test-threads 1

regress: ## PostgreSQL's own regression suite, directly and through pgsluice; see docs/regress.md
	@scripts/regress.sh

regress-audit: ## that the lexer misses no statement of that suite that changes a session's state; see docs/regress.md
	@scripts/regress-audit.sh

lint: ## formatting, clippy and documentation, all without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

instructions: ## instructions per message, beside those recorded; more than 5 % above is a failure; see docs/performance.md
	@scripts/instructions.sh

bench: ## CPU and memory side by side with PgBouncer (BENCH_ARGS=--quick for a short run); see docs/performance.md
	@. scripts/packages.sh; command -v pgbouncer >/dev/null || [ -n "$$PGBOUNCER_BIN" ] || install_packages pgbouncer; \
		command -v openssl >/dev/null || install_packages openssl
	$(CARGO) build --release -p pgsluice -p pgsluice-benches
	@"$${CARGO_TARGET_DIR:-target}/release/compare" $(BENCH_ARGS)

pgbench: ## pgbench -S through pgsluice, PgBouncer and neither, against a real PostgreSQL; see docs/performance.md
	@scripts/pgbench.sh
