# Sourced by demo.sh and test.sh: makes .venv with the given requirements and this package; $python is its interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x $python ] || python3 -m venv .venv

# pip takes seconds to find that all is there: a stamp says what the last installation was made from
wanted=$({ pwd; $python --version; cat pyproject.toml requirements*.txt; } | cksum)
if [ "$(cat ".venv/$1.installed" 2>/dev/null)" != "$wanted" ]; then
    $python -m pip install --quiet --disable-pip-version-check -r "$1" --editable .
    echo "$wanted" > ".venv/$1.installed"
fi
