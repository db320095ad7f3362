#!/bin/bash
# package.sh FOLDER VERSION builds holdfast_VERSION_ARCH.deb there. The same source gives the same bytes:
# times come from SOURCE_DATE_EPOCH, which the Makefile takes from the commit.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022
export VERSION=$2 ARCH
ARCH=$(go env GOARCH)
: "${SOURCE_DATE_EPOCH:?names the time that the files of the package get}"
export SOURCE_DATE_EPOCH

work=build/package
rm -rf $work
mkdir -p $work "$1"
packaging/ci/build.sh $work/bin "$VERSION"

# A static program holds the code of others, so their licences come along.
{
	echo "Holdfast, a backup agent. The programs contain these modules, under their own licences:"
	go list -deps -f '{{with .Module}}{{if .Version}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... | LC_ALL=C sort -u |
		while read -r module version dir; do
			printf '\n%s %s\n\n' "$module" "$version"
			find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) |
				LC_ALL=C sort | xargs -r cat
		done
	printf '\nThe Go runtime and standard library, %s\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
} >$work/copyright
$work/bin/holdfast completion bash >$work/completion.bash
$work/bin/holdfast completion zsh >$work/completion.zsh

go tool -modfile=packaging/tools/go.mod nfpm package --config packaging/nfpm.yaml --packager deb \
	--target "$1/holdfast_${VERSION}_${ARCH}.deb"
