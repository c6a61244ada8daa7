# Sourced by demo.sh and test.sh: a virtual environment in .venv with the given requirements, on `python` below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
python=.venv/bin/python
