#!/bin/sh
# packages.sh TARGET NAME...: packages of Debian and nothing that they only recommend. From /wheels/TARGET alone where that holds .deb files, else from Debian.
set -eu
export DEBIAN_FRONTEND=noninteractive
target=$1
shift
if ls "/wheels/$target"/*.deb >/dev/null 2>&1; then
    dpkg --install "/wheels/$target"/*.deb
    dpkg --status "$@" >/dev/null
else
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
fi
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
