# The order suite: `make run` shows it, `make test` proves it.

# dev builds fast and is the default; PROFILE=release runs fast.
PROFILE ?= dev
ONCE ?=
SEED ?= 1
MINUTES ?= 5
RATE ?= 10
SEEDS ?= 1
CARGO ?= cargo
# The committed versions, nothing newer.
CARGO_FLAGS ?= --locked

target = $(or $(CARGO_TARGET_DIR),target)
binaries = $(target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
build = $(CARGO) build $(CARGO_FLAGS) --profile $(PROFILE)
# What a benchmark runs: each program is optimised as a whole, which takes a minute or two.
benched = $(addprefix --package ,bench order-service payment-service inventory-service notification-service sandbox-gateway)
shell_files = suite .ci/run $(wildcard deploy/*.sh deploy/kubernetes/*.sh tests/*.sh)

.DEFAULT_GOAL := help
.PHONY: help run test compose-test chaos chaos-short crash-matrix bounds kubernetes check bench bench-soak bench-spring bench-smoke stop reset bootstrap

help: ## Print this
	@echo 'make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'
	@echo 'Settings of run: ONCE=1 (end after the sample order, with its status), PROFILE=release, DATA_DIR (./data),'
	@echo '  ORDER_PORT (8080), PAYMENT_PORT (8081), INVENTORY_PORT (8082), NOTIFICATION_PORT (8083), GATEWAY_PORT (8090),'
	@echo '  KAFKA_PORT (19092), KAFKA_CONTROLLER_PORT (19093), POSTGRES_PORT (15432), SMTP_URL (mails into DATA_DIR/mails),'
	@echo '  and for existing servers KAFKA_BOOTSTRAP, DATABASE_URL_{ORDER,PAYMENT,INVENTORY,NOTIFICATION}.'

run: bootstrap ## Build and start everything, place a sample order, run until Ctrl-C
	$(build) --workspace --bins
	@exec $(binaries)/local-stack up $(if $(filter-out 0 no false,$(ONCE)),--once)

test: ## Run every test on a Kafka and PostgreSQL of its own
	@deploy/bootstrap.sh tests
	@exec deploy/test.sh

chaos: bootstrap ## Fail everything under load for MINUTES=5 by the schedule of SEED=1, then verify
	$(build) --workspace --bins
	@exec $(binaries)/chaos --seed $(SEED) --minutes $(MINUTES) --rate $(RATE) --folder $(target)/chaos

chaos-short: ## A minute of it
	@$(MAKE) --no-print-directory chaos MINUTES=1

bounds: bootstrap ## Each service's memory with 1,000 and with BACKLOG=100000 waiting records
	$(build) --workspace --bins
	BACKLOG=$(or $(BACKLOG),100000) $(CARGO) test $(CARGO_FLAGS) --package system-tests --test it backlog -- --nocapture

kubernetes: ## Build the Kubernetes overlays and check every manifest against its schema
	@deploy/kubernetes/validate.sh

crash-matrix: bootstrap ## Kill each service at each of its crash points, SEEDS=1 times, and verify (ten minutes a seed)
	$(build) --workspace --bins
	CARGO='$(CARGO)' CARGO_FLAGS='$(CARGO_FLAGS)' deploy/build-faulty.sh --profile $(PROFILE)
	@SEEDS=$(SEEDS) SEED=$(SEED) exec $(binaries)/crash-matrix

compose-test: ## Build the images, tell the stories on Docker Compose, take it down
	@exec deploy/compose-test.sh

check: bootstrap ## Formatting, lints and documentation, without warnings
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items
	@if command -v shellcheck >/dev/null; then echo shellcheck $(shell_files); shellcheck $(shell_files); \
	  else echo 'shellcheck is not installed: the shell scripts are only parsed'; \
	  for file in $(shell_files); do bash -n "$$file" || exit 1; done; fi

bench: bootstrap ## Measure everything on an idle machine (half an hour, and the build); writes docs/performance.md
	$(CARGO) build $(CARGO_FLAGS) --release $(benched) --bins
	@exec $(target)/release/bench run

bench-soak: bootstrap ## Twenty minutes at half of what `make bench` found
	$(CARGO) build $(CARGO_FLAGS) --release $(benched) --bins
	@exec $(target)/release/bench soak

bench-spring: ## Five minutes beside two of the services as they are written with Spring; needs a JDK
	@deploy/bootstrap.sh jdk
	$(CARGO) build $(CARGO_FLAGS) --release $(benched) --bins
	@exec $(target)/release/bench spring

bench-smoke: bootstrap ## Two minutes: batches against single events, CPU seconds per 1,000 orders
	$(build) --workspace --bins
	@exec $(binaries)/bench smoke

stop: ## Stop what `make run` runs
	@$(build) --quiet --package local-stack
	@exec $(binaries)/local-stack stop

reset: ## Stop it and forget its data
	@$(build) --quiet --package local-stack
	@exec $(binaries)/local-stack reset

bootstrap:
	@deploy/bootstrap.sh
