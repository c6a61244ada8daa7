#!/usr/bin/env bash
# Lint and tests. Arguments go to pytest.
source "$(dirname "$0")/setup.sh" requirements-dev.txt

$python -m ruff check .
$python -m pytest "$@"
