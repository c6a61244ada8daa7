# Sourced by demo.sh and test.sh: makes .venv with the given requirements; $python is its interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
python=.venv/bin/python
