#!/usr/bin/env bash
# The mini model on six real subjects of DreamBench (docs/results.md); photos from BDKIT_DREAMBENCH_DIR or `bdkit fetch dreambench`.
set -euo pipefail
bdkit bench dreambench --model mini --subjects 6 --prompts 5 --samples 2 --out "${1:-results/photos}"
