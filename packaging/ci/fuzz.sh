#!/bin/bash
# Fuzzes each fuzz test of the module for FUZZTIME (default 30s), one after the other.
set -euo pipefail
cd "$(dirname "$0")/../.."
grep -rlE '^func Fuzz' --include='*_test.go' agent cmd internal | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | while read -r name; do
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" "./$dir"
	done
done
