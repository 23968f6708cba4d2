#!/usr/bin/env bash
# What results/paper holds, and the page of claims. Stop it at any moment and run it again: it resumes. Hours on two
# CPU cores, most of them the main table's and the ablations'.
set -euo pipefail
out="${1:-results/paper}"

# The main table: 30 held-out subjects, 3 seed sets, 2,250 images a row. About ten hours
bdkit reproduce table1 --suite mini --budget full --samples 1 --out "$out"

# Steps: the learning rates first
bdkit reproduce search --suite mini-dev --budget small --out "$out"
bdkit reproduce steps --suite mini --budget full --subjects 15 --prompts 5 --samples 1 --seed-sets 0 --out "$out"

# What each part of the pre-training does, what is kept of the base, what a fit moves, ControlNet and editing
bdkit reproduce ablations --suite mini --budget full --samples 1 --seed-sets 0 --out "$out"
bdkit reproduce preservation --suite mini --budget full --samples 1 --seed-sets 0 --out "$out"
bdkit reproduce drift --suite mini --budget full --out "$out"
bdkit reproduce combination --suite mini --budget full --out "$out"
bdkit table "$out"

# Another world (750 images a row)
bdkit bench mini@1 --samples 1 --methods base,blip-diffusion-zero-shot,blip-diffusion-finetuned --out results/mini-1
