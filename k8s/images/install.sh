#!/bin/sh
# install.sh EXTRA OVERRIDES: what an extra of pyproject.toml needs, into /opt/consilium, as `make setup` does it on one machine.
# From /wheels alone where that holds wheels, else from the index. Our own code is not installed here, so that its changes leave this layer as it is.
set -eu
extra=$1 overrides=$2
if ls /wheels/*.whl >/dev/null 2>&1; then set -- --offline --no-index --find-links /wheels; else set --; fi
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
uv venv --quiet --python "$(command -v python3.11)" /opt/consilium
uv pip install --compile-bytecode --python /opt/consilium/bin/python "$@" \
    --override "/recipe/overrides/$overrides" --extra "$extra" -r /recipe/pyproject.toml
