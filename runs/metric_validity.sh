#!/usr/bin/env bash
# What the metrics mean and how they are fooled (notebook 07): 30 held-out subjects, about three minutes on one core.
set -euo pipefail
python -m studies.metric_validity --out "${1:-results/metric-validity}"
