#!/bin/bash
# Moves a fleet of hosts while faults happen (internal/e2e/fleet), backs up, forgets and prunes beside
# each other while processes are paused and killed (internal/e2e/fear), drives the model of a host
# (TestModel of agent/job), and takes the power of a virtual machine away (TestPowerCuts), round after
# round, each with the next seed, for DURATION (in seconds, or as 8h, 30m; default 1h) from SEED
# (default: the time). A round of the fleet takes ROUND (default 10m), the fear takes FEAR (default
# 30m), and the model makes RUNS times 100 steps (default 1000). A round that finds something does not
# end the soak. Each round leaves its output, the trails of the fleet and of the fear, and the logs of
# the agents in build/soak/SEED.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
PATH=$PATH:/usr/sbin:/sbin
export HOLDFAST_MUST_RUN=1
seed=${SEED:-$(date +%s)}
length=${DURATION:-1h}
case $length in
*h) length=$((${length%h} * 3600)) ;;
*m) length=$((${length%m} * 60)) ;;
*s) length=${length%s} ;;
esac
end=$((SECONDS + length))
rounds=0
faults=0
movements=0
oddities=0
bad=()

# number prints how many of them the fleet of this round reported.
number() {
	local n
	n=$(sed -n "s/^.* \([0-9]*\) $1\$/\1/p" "$keep/fleet" | tail -n 1)
	echo "${n:-0}"
}

while [ $SECONDS -lt "$end" ]; do
	keep=$PWD/build/soak/$seed
	mkdir -p "$keep"
	rounds=$((rounds + 1))
	HOLDFAST_SEED=$seed HOLDFAST_FLEET_TIME=${ROUND:-10m} HOLDFAST_FLEET_KEEP=$keep \
		go test -count=1 -timeout 0 -v ./internal/e2e/fleet >"$keep/fleet" 2>&1 || bad+=("$keep/fleet")
	HOLDFAST_SEED=$seed HOLDFAST_FEAR_TIME=${FEAR:-30m} HOLDFAST_FEAR_KEEP=$keep \
		go test -count=1 -timeout 0 -v ./internal/e2e/fear >"$keep/fear" 2>&1 || bad+=("$keep/fear")
	# Each run of the model has a seed of its own, so rounds are as far apart as they have runs.
	HOLDFAST_SEED=$((seed * ${RUNS:-1000})) HOLDFAST_RUNS=${RUNS:-1000} \
		go test -count=1 -timeout 0 -v -run '^TestModel$' ./agent/job >"$keep/model" 2>&1 || bad+=("$keep/model")
	HOLDFAST_SEED=$seed ROUNDS=100 go test -count=1 -timeout 0 -v -run '^TestPowerCuts$' ./internal/e2e >"$keep/powercuts" 2>&1 || bad+=("$keep/powercuts")
	faults=$((faults + $(number faults)))
	movements=$((movements + $(number movements)))
	oddities=$((oddities + $(number oddities)))
	echo "seed $seed: $rounds rounds, $movements movements, $oddities oddities, $faults faults, ${#bad[@]} of $((4 * rounds)) tests found something"
	seed=$((seed + 1))
done
for file in "${bad[@]}"; do
	echo "== $file"
	grep -E 'FOUND|HOLDFAST_SEED|_test.go:[0-9]+:' "$file" | head -n 20
done
[ ${#bad[@]} = 0 ]
