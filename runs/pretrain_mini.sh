#!/usr/bin/env bash
# The shipped mini weights and the networks that score them, from nothing. Less than four hours on two CPU cores up to stage 2;
# the last stage, 1.6 million images, takes about eight more there and 5.4 minutes on one H200. Resumes where it was stopped.
set -euo pipefail
out="${1:-runs/mini}"
bdkit pretrain mini --out "$out"
bdkit train-evaluators --work "$out/evaluators" --weights "$out/weights/evaluators"
