#!/usr/bin/env bash
# Makes /opt/venv with the dependencies of pyproject.toml, every one at the version of constraints.txt:
# install.sh cpu|cuda [EXTRA_INDEX_URL]. A step of the Dockerfile.
set -euo pipefail
variant=$1
index=${2:-}

# PyPI's wheel of torch for Linux is CUDA's, and depends on NVIDIA's. That for CPUs has a local version, which `==`
# would accept as well, so `===` keeps it out of the other variant.
case $variant in
cpu) torch='torch==\1+cpu' ;;
cuda) torch='torch===\1' ;;
*)
  echo "VARIANT is cpu or cuda, not $variant" >&2
  exit 2
  ;;
esac
sed -E "s/^torch==(.*)/$torch/" constraints.txt > /tmp/lock.txt
python3.11 - > /tmp/wanted.txt << 'WANTED'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["postgres"], *extras["s3"], sep="\n")
WANTED

python3.11 -m venv /opt/pip
python3.11 -m venv --without-pip /opt/venv
pip() { /opt/pip/bin/pip --disable-pip-version-check --python /opt/venv/bin/python "$@"; }
pip install --no-cache-dir --no-compile --only-binary :all: --progress-bar off \
  ${index:+--extra-index-url "$index"} -c /tmp/lock.txt -r /tmp/wanted.txt
plain() { sed 's/===/==/' "$@" | tr 'A-Z_' 'a-z-'; } # names are the same whatever their case and dashes
pip freeze --all > /tmp/installed.txt
if plain /tmp/installed.txt | grep -vxFf <(plain /tmp/lock.txt); then
  echo "The above is not in constraints.txt." >&2
  exit 1
fi

# What only builds and tests of these libraries read. torch_shm_manager is asked for at every import of torch.
cd /opt/venv/lib/python3.11/site-packages
find torch/bin -mindepth 1 ! -name torch_shm_manager -delete
rm -rf torch/include torch/share torch/test ray/jars
find . -depth -type d -name tests -exec rm -r {} +
find . -name '*.a' -delete
# Bytecode that does not ask for the source's time, since a builder may set it; one file of torch needs Python 3.12.
/opt/venv/bin/python -m compileall -q -j 0 -x py312_intrinsics --invalidation-mode unchecked-hash .
chmod -R a+rX,go-w /opt/venv
