#!/usr/bin/env bash
# The main table of docs/results.md: 30 held-out subjects, 3,000 images a row. About 105 minutes on two CPU cores.
# Stop it at any moment and run it again: it resumes.
set -euo pipefail
out="${1:-results/mini}"
bdkit bench mini --out "$out"

# Two further seed sets of the two BLIP-Diffusion rows, and another world (750 images a row and set)
bdkit bench mini --seed-sets 1,2 --samples 1 --methods blip-diffusion-zero-shot,blip-diffusion-finetuned \
    --no-ground-truth --out "$out-seeds"
bdkit bench mini@1 --samples 1 --methods base,blip-diffusion-zero-shot,blip-diffusion-finetuned --out "$out-1"
