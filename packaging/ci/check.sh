#!/bin/bash
# The quick look before a commit: builds, lints, and runs the tests that need neither root nor network nor containers.
# "make test" runs all tests, also of whole programs (internal/e2e) and of the installed package, and
# lint.sh runs vet.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/ci/env.sh
go build ./...
packaging/ci/lint.sh
go list ./... | grep -v -e /internal/e2e -e /packaging$ -e /internal/bench$ | xargs go test -short -vet=off
