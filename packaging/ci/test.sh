#!/bin/bash
# Runs every test with the real parts (setup.sh has installed them) and checks that nothing is left behind.
# HOLDFAST_TEST_FLAGS adds flags for "go test", such as -race or -run.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. packaging/ci/env.sh
PATH=$PATH:/usr/sbin:/sbin
mark=holdfast-testbed- # begins the name of the folder in which tests keep all that they make

# left lists the mounts, loop devices and processes of tests.
left() {
	grep -F "/$mark" /proc/mounts | sed 's/^/mount: /'
	grep -sHF "/$mark" /sys/block/loop*/loop/backing_file | sed 's/^/loop device: /'
	local p line
	for p in /proc/[0-9]*/cmdline; do
		{ line=$(tr '\0' ' ' <"$p"); } 2>/dev/null || continue
		case $line in *"/$mark"*) echo "process: $line" ;; esac
	done
}

# In CI, up to six tests that failed run once more, each alone: on a shared machine an engine or a virtual machine
# sometimes does not answer in time. Such a test is named at the end, since it is a fault of the test or of the product.
again=()
flaky=build/flaky.txt
mkdir -p build
rm -f $flaky
[ "${CI:-}" = true ] && again=(--rerun-fails=1 --rerun-fails-max-failures=6 --rerun-fails-abort-on-data-race --rerun-fails-report=$flaky)

# The packages that take longest come first: else the last of them runs alone at the end, on one processor. Many tests
# wait (for an engine, a virtual machine, a timer), so more packages run at a time than there are processors. "make lint"
# runs all of vet. Symbols for a debugger take a quarter of the time of each link. The set-up of a
# file system or a container takes long on a busy machine, but no test needs half of this.
long="./internal/e2e ./agent ./internal/backup ./agent/runtime ./internal/obs ./internal/bench ./agent/job ./cmd/holdfast
	./packaging ./internal/e2e/fleet ./internal/e2e/fear ./internal/restore ./internal/vault ./agent/auth ./internal/snapshot"
go tool -modfile=packaging/tools/go.mod gotestsum \
	--format pkgname --format-hide-empty-pkg "${again[@]}" --packages "$(echo $long) ./..." -- \
	-timeout 40m -vet=off "-ldflags=-s -w" -p $(($(nproc) + 1)) ${HOLDFAST_TEST_FLAGS:-}
code=$?
if [ -s $flaky ]; then
	echo "these tests failed and were run again (runs, failures); mend them:"
	cat $flaky
fi

# Benchmarks must go on running; what they measure here is nothing. Those of obs need servers, and are run by hand.
mapfile -t benches < <(grep -rlE '^func Benchmark' --include='*_test.go' agent cmd internal | grep -v '^internal/obs/' | xargs -n1 dirname | sort -u | sed 's|^|./|')
go test -run '^$' -bench . -benchtime 1x -short -vet=off "-ldflags=-s -w" "${benches[@]}" >build/bench.txt || { code=1; cat build/bench.txt; }

for _ in $(seq 240); do # the processes that clean up after killed tests need a moment
	[ -z "$(left)" ] && break
	sleep 0.5
done
if [ -n "$(left)" ]; then
	echo "the tests have left behind:" >&2
	left >&2
	code=1
fi
exit $code
