#!/usr/bin/env bash
# The speed tables of docs/results.md (full size; needs a GPU) and docs/scoring.md (needs DreamBench's photos).
set -euo pipefail
python benchmarks/full_size.py --compile
python benchmarks/scaling.py
python benchmarks/scoring.py --photos "${BDKIT_DREAMBENCH_DIR:?folder of the DreamBench photos}" --work "${1:-runs/scoring}"
