#!/usr/bin/env bash
# A base like docker.io/library/debian:bookworm-slim out of Debian's packages, where no registry of images can be
# reached: image/debian.sh buildah|podman|docker [NAME]. Needs root and debootstrap; MIRROR names another mirror.
set -euo pipefail
engine=$1
name=${2:-localhost/debian:bookworm-slim}
mirror=${MIRROR:-http://deb.debian.org}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

chmod 755 "$root" # it becomes the image's /
debootstrap --variant=minbase bookworm "$root" "$mirror/debian"
cat > "$root/etc/apt/sources.list" << SOURCES
deb $mirror/debian bookworm main
deb $mirror/debian bookworm-updates main
deb $mirror/debian-security bookworm-security main
SOURCES
# As in Debian's own slim images: no manuals, here and in what is installed later.
cat > "$root/etc/dpkg/dpkg.cfg.d/docker" << EXCLUDED
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
EXCLUDED
chroot "$root" apt-get update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get upgrade -y
rm -rf "$root"/var/{cache/apt,lib/apt/lists,log}/* "$root"/usr/share/{info,locale,man}/*
find "$root/usr/share/doc" -type f ! -name copyright -delete

if [ "$engine" = buildah ]; then
  container=$(buildah from scratch)
  buildah add -q "$container" "$root" /
  buildah commit -q --rm "$container" "$name"
else
  tar -C "$root" -c . | "$engine" import - "$name"
fi
