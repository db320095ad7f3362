# The commands of this repository. "make help" lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What a build says of itself; a release sets it.
VERSION ?= 0.1.0
# Packages are built twice byte for byte the same, so time comes from the commit and not from the clock.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1577836800)

export HOLDFAST_TOOLS := $(CURDIR)/build/bin
TOOL := go tool -modfile=$(CURDIR)/packaging/tools/go.mod

.PHONY: help demo build tools check test test-long soak lint bench year fuzz package clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the whole job in a temporary folder: no root, no server
	@go run ./cmd/holdfast demo

build: ## build holdfast and holdfastd into build/bin
	@packaging/ci/build.sh build/bin "$(VERSION)"

tools: ## install what the tests need: Debian packages (as root), object stores, a kernel for virtual machines
	@packaging/ci/setup.sh

check: ## build, vet, lint and the tests that need neither root nor network nor containers
	@packaging/ci/check.sh

test: tools ## run all tests, with all real parts
	@packaging/ci/test.sh

lint: ## vet, linters, unreachable code, go.mod
	@packaging/ci/lint.sh

test-long: ## run the tests of the stores against rclone too, which takes minutes to build, and measure beside it
	@packaging/ci/setup.sh long
	@HOLDFAST_LONG=1 go test -timeout 20m ./internal/obs/...
	@go test -run '^$$' -bench 'Rclone' -benchtime 5x ./internal/obs
	@go test -run '^$$' -bench 'Bandwidth' -benchtime 1x ./internal/obs

soak: tools ## move a fleet while faults happen, prune beside processes that are paused and killed, and drive the model of a host, for hours (DURATION=1h SEED=n ROUND=10m FEAR=30m RUNS=1000)
	@packaging/ci/soak.sh

bench: ## measure beside restic, borg and kopia where on PATH (MIX= SIZE=MiB SEED= STORE= ROUNDS=n OUT=file), or BIG=1: millions of files
	@go run ./internal/bench

year: ## play a year of a fleet in minutes, beside restic and kopia where on PATH (DAYS=365 INSTANCES=40 HOSTS=4 SEED=n OUT=file)
	@HOLDFAST_YEAR_DAYS=$${DAYS:-365} HOLDFAST_YEAR_INSTANCES=$${INSTANCES:-40} HOLDFAST_YEAR_HOSTS=$${HOSTS:-4} HOLDFAST_YEAR_PEERS=1 \
		HOLDFAST_SEED=$${SEED:-1} HOLDFAST_YEAR_OUT=$${OUT:+$$(realpath -m "$$OUT")} go test -count=1 -timeout 0 -v -run '^TestYear$$' ./internal/e2e/year

fuzz: ## fuzz every decoder for a while (FUZZTIME=30s each)
	@packaging/ci/fuzz.sh

package: ## build dist/holdfast_VERSION_ARCH.deb
	@packaging/ci/package.sh dist "$(VERSION)"

clean: ## remove what was built
	@rm -rf build dist
