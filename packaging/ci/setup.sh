#!/bin/bash
# Installs what the tests need and lacks here: Debian packages through apt when root, and MinIO, built from
# its pinned source into build/bin. Without root it says which packages lack, and the tests that need them
# are skipped; in CI that is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

# program:package, one for each package that tests or scripts use.
needed=(
	mkfs.btrfs:btrfs-progs mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mount:mount
	rsync:rsync setfattr:attr setfacl:acl
	dockerd:docker.io busybox:busybox-static
	debootstrap:debootstrap systemd-nspawn:systemd-container systemd-analyze:systemd
)
# The commit that MinIO's latest release was made of; newer ones are not offered as a program.
minio=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

PATH=$PATH:/usr/sbin:/sbin
lacking=()
for pair in "${needed[@]}"; do
	command -v "${pair%%:*}" >/dev/null || lacking+=("${pair#*:}")
done
# docker.io needs the certificates only in the network, but programs that test TLS look for the folder.
[ -e /etc/ssl/certs/ca-certificates.crt ] || lacking+=(ca-certificates)

if [ ${#lacking[@]} -gt 0 ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "installing ${lacking[*]}"
		export DEBIAN_FRONTEND=noninteractive
		# No service of a package starts here: the tests start their own.
		policy=/usr/sbin/policy-rc.d
		if [ ! -e $policy ]; then
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
			trap 'rm -f $policy' EXIT
		fi
		log=$(mktemp)
		if ! { apt-get update && apt-get install -y --no-install-recommends "${lacking[@]}"; } >"$log" 2>&1; then
			tail -n 30 "$log" >&2
			echo "setup: apt-get could not install ${lacking[*]}" >&2
			exit 1
		fi
		rm -f "$log"
	else
		echo "setup: these Debian packages lack, and only root can install them: ${lacking[*]}" >&2
		[ "${CI:-}" = true ] && exit 1
	fi
fi

if [ ! -x build/bin/minio ] || [ "$(cat build/bin/minio.version 2>/dev/null)" != "$minio" ]; then
	echo "building $minio"
	GOBIN=$PWD/build/bin GOFLAGS=-trimpath go install "$minio"
	echo "$minio" >build/bin/minio.version
fi
