#!/usr/bin/env bash
# A bench on a Slurm cluster, one GPU a task of the array; the machines share a folder, and nothing else.
#   sbatch runs/slurm.sh dreambench results/dreambench --model salesforce/blipdiffusion --photos photos/
# 16 tasks make the images, whichever are running; the last command scores them when all are done. A task that was
# stopped (time limit, lost node) is queued again and resumes. With Ray instead: docs/scaling.md.
#SBATCH --job-name=bdkit
#SBATCH --array=1-16
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%A-%a.log
set -euo pipefail
suite="${1:?name of a suite}" out="${2:?folder that all machines see}"
shift 2
number="${SLURM_ARRAY_TASK_ID:-1}" count="${SLURM_ARRAY_TASK_COUNT:-1}"
run_bench() { command bdkit bench "$suite" --out "$out" "$@"; }
run_bench "$@" --shard "$number/$count"
# Whichever task ends last finds all images there and scores; the others find some missing and stop here.
if [ "$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["status"])' "$out/run.json")" = generated ]; then
    run_bench "$@"
fi
