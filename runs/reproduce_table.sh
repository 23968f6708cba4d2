#!/usr/bin/env bash
# The main table of docs/results.md: 30 held-out subjects, 750 images a row. About two hours on two CPU cores.
# Stop it at any moment and run it again: it resumes.
set -euo pipefail
out="${1:-results/paper}"
rows=base,textual-inversion,re-imagen,blip-diffusion-zero-shot,blip-diffusion-finetuned
rows+=,dreambooth-from-base-100,dreambooth-from-base-300,dreambooth-from-base
rows+=,dreambooth-100,dreambooth-300,dreambooth,dreambooth-lora
bdkit reproduce table1 --suite mini --budget full --samples 1 --seed-sets 0 --methods "$rows" --out "$out"

# Three seed sets of seven rows (2,250 images a row). About two and a half hours; here table1-seeds.csv is its table1.csv
seven=base,re-imagen,blip-diffusion-zero-shot,blip-diffusion-finetuned
seven+=,dreambooth-from-base-100,dreambooth-from-base-300,dreambooth-from-base
bdkit reproduce table1 --suite mini --budget full --samples 1 --methods "$seven" --out results/paper-seeds

# Another world (750 images a row)
bdkit bench mini@1 --samples 1 --methods base,blip-diffusion-zero-shot,blip-diffusion-finetuned --out results/mini-1
