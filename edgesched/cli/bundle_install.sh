#!/bin/sh
# Installs edgesched @VERSION@ from the files beside this script. No network is needed.
#   sudo ./install.sh [DIR]      DIR: /opt/edgesched, where the systemd units look
# PYTHON and WORKER_PYTHON name the interpreters, if they are not in PATH as python@PYTHON@ and python@WORKER_PYTHON@.
# May be run again; an installed version is replaced only when the new one is whole.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-/opt/edgesched}

say() { echo "install.sh: $*" >&2; }

[ "$(uname -m)" = "@MACHINE@" ] || { say "this bundle is for @MACHINE@, not for $(uname -m): make one with --platform"; exit 2; }
(cd "$here" && sha256sum --check --quiet SHA256SUMS) || { say "files are damaged or missing: copy the bundle again"; exit 2; }

# environment NAME VERSION-OF-PYTHON INTERPRETER FLAGS WHAT...: in DIR/NAME-@VERSION@, with a link DIR/NAME to it
environment() {
  name=$1; version=$2; python=$3; flags=$4; shift 4
  found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found=none
  [ "$found" = "$version" ] || { say "Python $version is needed, $python is $found: name it with PYTHON or WORKER_PYTHON"; exit 2; }
  if [ -e "$target/$name" ] && [ ! -L "$target/$name" ]; then
    say "$target/$name is there, and not from a bundle: move it away"; exit 2
  fi
  mkdir -p "$target"
  # shellcheck disable=SC2086 # flags may be none
  "$python" -m venv --clear --without-pip $flags "$target/$name-@VERSION@"
  set -- install --quiet --no-index --disable-pip-version-check "$@"
  "$target/$name-@VERSION@/bin/python" "$(echo "$here"/pip/pip-*.whl)/pip" "$@"
  ln -sfn "$name-@VERSION@" "$target/$name.new"
  mv -T "$target/$name.new" "$target/$name"
}

environment venv @PYTHON@ "${PYTHON:-python@PYTHON@}" "" --find-links "$here/wheels" "edgesched[@EXTRAS@]==@VERSION@"
if [ -d "$here/worker-wheels" ]; then
  environment worker @WORKER_PYTHON@ "${WORKER_PYTHON:-python@WORKER_PYTHON@}" "@WORKER_FLAGS@" \
    --find-links "$here/worker-wheels" --requirement "$here/worker-requirements.txt"
  echo "workers: $target/worker/bin/python (python_bin)"
fi
echo "installed $("$target/venv/bin/edgesched" --version) in $target/venv"
echo "next: $here/deploy/systemd/README.md, from \"A board\" on"
