#!/bin/sh
# wheelhouse.sh TARGET...: everything that a build of these targets would fetch, into /wheels. Run it where there is a network, in the image that the build begins
# with, so that Python, Debian and the processor are the build's:
#
#   docker run --rm -v "$PWD:/src:ro" -v "$PWD/wheels:/wheels" python:3.11.14-slim-bookworm sh /src/k8s/images/wheelhouse.sh services cpu
#   docker build --network none --build-context wheels=wheels -f k8s/images/Dockerfile --target cpu .
set -eu
cd "$(dirname "$0")/../.."
recipe=k8s/images/Dockerfile
python3.11 -m venv /tmp/wheelhouse
pip="/tmp/wheelhouse/bin/python -m pip --disable-pip-version-check"
uv="uv==$(sed -n 's/^ARG UV_VERSION=//p' $recipe)"
$pip install --quiet "$uv"
# What the build itself needs: uv, and what makes a wheel of our code.
$pip download --quiet --only-binary :all: --dest /wheels "$uv" "$(sed -n 's/^requires = \["\(hatchling.*\)"\]$/\1/p' pyproject.toml)"
for target in "$@"; do
    steps=$(sed -n "/ AS $target\$/,/^USER/p" $recipe)
    set -- $(echo "$steps" | sed -n 's|^ *sh /recipe/install.sh \(.*\)|\1|p')
    /tmp/wheelhouse/bin/uv pip compile --quiet --no-header --no-annotate --python python3.11 --override "services/consilium/engine/install/$2" \
        --extra "$1" --output-file "/wheels/$target.txt" pyproject.toml
    $pip download --quiet --no-deps --only-binary :all: --dest /wheels --requirement "/wheels/$target.txt"
    set -- $(echo "$steps" | sed -n 's|^ *sh /recipe/packages.sh [a-z]* \(.*\)|\1|p')
    if [ $# -gt 0 ]; then
        mkdir -p "/wheels/$target/partial"
        apt-get update -qq
        apt-get install -qq --yes --no-install-recommends --download-only -o "Dir::Cache::archives=/wheels/$target" "$@"
        rm -rf "/wheels/$target/lock" "/wheels/$target/partial"
    fi
done
