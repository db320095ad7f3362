#!/bin/bash
# Installs what the tests need and lacks here: Debian packages through apt when root, object stores, built from their
# pinned sources into build/bin, and a kernel for virtual machines, unpacked into build/vm. Without root it says which packages lack, and the tests that need them
# are skipped; in CI that is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/ci/env.sh

# program:package, one for each package that tests or scripts use.
needed=(
	mkfs.btrfs:btrfs-progs mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.vfat:dosfstools mkfs.exfat:exfatprogs mount:mount ip:iproute2
	rsync:rsync setfattr:attr setfacl:acl
	dockerd:docker.io busybox:busybox-static podman:podman
	qemu-system-x86_64:qemu-system-x86 depmod:kmod lvm:lvm2 thin_delta:thin-provisioning-tools
	debootstrap:debootstrap systemd-nspawn:systemd-container systemd-analyze:systemd
	keystone-manage:keystone promtool:prometheus logrotate:logrotate
)
# The commit that MinIO's latest release was made of; newer ones are not offered as a program.
minio=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0
rclone=github.com/rclone/rclone@v1.76.0 # for "setup.sh long"

PATH=$PATH:/usr/sbin:/sbin
temporary=()
builder=
trap '[ -z "$builder" ] || kill "$builder" 2>/dev/null || true; rm -rf "${temporary[@]}"' EXIT
lacking=()
for pair in "${needed[@]}"; do
	command -v "${pair%%:*}" >/dev/null || lacking+=("${pair#*:}")
done
# docker.io needs the certificates only in the network, but programs that test TLS look for the folder.
[ -e /etc/ssl/certs/ca-certificates.crt ] || lacking+=(ca-certificates)

# build MODULE@VERSION builds a program into build/bin, unless that very version is there.
build() {
	local module=${1%@*}
	local name=${module##*/}
	if [ ! -x "build/bin/$name" ] || [ "$(cat "build/bin/$name.version" 2>/dev/null)" != "$1" ]; then
		echo "building $1"
		GOBIN=$PWD/build/bin go install "$1"
		echo "$1" >"build/bin/$name.version"
	fi
}

stores() {
	build "$minio"
	build "$versitygw"
	[ "$1" != long ] || build "$rclone"
}
# The stores are compiled while apt fetches and unpacks, which needs little of the processors; afterwards
# where the certificates lack without which the modules can't be fetched.
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
	stores "${1:-}" &
	builder=$!
fi

if [ ${#lacking[@]} -gt 0 ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "installing ${lacking[*]}"
		export DEBIAN_FRONTEND=noninteractive
		# No service of a package starts here: the tests start their own.
		policy=/usr/sbin/policy-rc.d
		if [ ! -e $policy ]; then
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
			temporary+=($policy)
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

# Virtual machines boot Debian's kernel for clouds: it is small and has device mapper. Its package is unpacked
# and not installed. Any version will do, so one that is there stays.
kernels=(build/vm/lib/modules/*/modules.dep)
if [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] && [ ! -e "${kernels[0]}" ]; then
	work=$(mktemp -d)
	temporary+=("$work" build/vm.new)
	newest() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1; }
	if [ -z "$(newest)" ] && [ "$(id -u)" = 0 ]; then
		apt-get update >"$work/log" 2>&1 || cat "$work/log" >&2
	fi
	kernel=$(newest)
	echo "fetching ${kernel:-a kernel}"
	if [ -z "$kernel" ] || ! (cd "$work" && apt-get download "$kernel") >"$work/log" 2>&1; then
		tail -n 30 "$work/log" >&2
		echo "setup: apt-get could not download the kernel for virtual machines (linux-image-cloud-amd64)" >&2
		[ "${CI:-}" = true ] && exit 1
	else
		rm -rf build/vm build/vm.new
		mkdir -p build/vm.new
		dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C build/vm.new ./boot ./lib
		depmod -b build/vm.new "${kernel#linux-image-}"
		mv build/vm.new build/vm
	fi
fi

if [ -n "$builder" ]; then
	wait "$builder"
	builder=
else
	stores "${1:-}"
fi
