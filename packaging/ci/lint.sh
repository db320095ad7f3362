#!/bin/bash
# Everything that can be said of the code without running it.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. packaging/ci/env.sh
tools=$PWD/packaging/tools/go.mod
code=0

check() {
	local name=$1 start=$SECONDS
	shift
	if "$@"; then
		echo "ok   $name ($((SECONDS - start)) s)"
	else
		echo "FAIL $name ($((SECONDS - start)) s)"
		code=1
	fi
}

# unreachable fails on functions that no program and no test reaches.
unreachable() {
	local found
	found=$(go tool -modfile="$tools" deadcode -test -tags crashpoints ./...) || return 1
	[ -z "$found" ] && return 0
	echo "$found"
	return 1
}

check "go vet" go vet ./...
# The tag is in no other package, and programs that are built with it are tested by internal/e2e.
check "go vet -tags crashpoints" go vet -tags crashpoints ./internal/crashpoint
check "go mod tidy" go mod tidy -diff
check "go mod verify" go mod verify
check "deadcode" unreachable
check "golangci-lint" go tool -modfile="$tools" golangci-lint run ./...
check "shell scripts" bash -n packaging/ci/*.sh .ci/run
exit $code
