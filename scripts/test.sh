#!/usr/bin/env bash
# Lint and tests. Arguments go to pytest.
source "$(dirname "$0")/setup.sh" requirements-dev.txt

$python -m ruff check .
export OMP_NUM_THREADS=1  # one process for each core: threads of theirs would wait for each other
$python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
