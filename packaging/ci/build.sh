#!/bin/bash
# build.sh FOLDER VERSION builds holdfast and holdfastd there: static, and the same bytes from the same source.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "$1"
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$2" -o "$1/" ./cmd/...
