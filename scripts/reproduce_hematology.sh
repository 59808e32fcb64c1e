#!/usr/bin/env bash
# Paper A from nothing: train the detectors, simulate blood samples, measure their cells, write the report.
#
#   scripts/reproduce_hematology.sh quick [folder]   CPU-sized: small fields, short trainings; at most 45 minutes
#   scripts/reproduce_hematology.sh full  [folder]   the paper's recipe and sizes: a GPU, and hundreds of GB on disk
#
# Stages that are done are skipped, interrupted ones go on: run it again after a stop. The report lies in
# <folder>/report/report.html [outputs/reproduce_hematology_<size>].
# Variables: SEEDS (of the ResNet-18 detector, e.g. 0,1,2), METHOD (of the indices), HEMOLENS (the command).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
size=${1:-}
case $size in
    -h | --help) usage; exit 0 ;;
    quick)
        suffix=_quick
        cohort=(data.n_samples=24 data.fields_per_sample=3 'data.field_px=[448,448]' data.placement.density_per_mm2=2500
            data.blood.wbc_fraction=0.02) # of the cells, so that there are some to count
        seeds=${SEEDS:-0}
        ;;
    full)
        suffix=""
        cohort=(data.n_samples=57 data.fields_per_sample=27) # 1,539 tomograms
        seeds=${SEEDS:-0,1,2}
        ;;
    *) usage >&2; exit 2 ;;
esac
folder=${2:-outputs/reproduce_hematology_$size}
method=${METHOD:-regressor}
hemolens=${HEMOLENS:-hemolens}
command -v "${hemolens%% *}" >/dev/null || { echo "no command $hemolens: activate the environment, or set HEMOLENS" >&2; exit 2; }
mkdir -p "$folder"
started=$SECONDS

stage() { printf '\n== %s (%d min so far)\n' "$1" $(((SECONDS - started) / 60)); }

# A multirun skips what is complete, goes on with what was interrupted, and repeats what failed.
train() { # EXPERIMENT SEEDS
    stage "train $1, seed $2"
    $hemolens train -m "experiment=$1" "seed=$2" "hydra.sweep.dir=$folder/detectors/$1"
}
train "det_fcos_r18_pafpn_tomogram$suffix" "$seeds"
train "det_fcos_r50_fpn_tomogram$suffix" 0
train "det_fcos_swin_t_fpn_tomogram$suffix" 0

# Other samples than any detector has seen: another seed of the simulation.
stage "simulate blood samples"
$hemolens simulate "output=$folder/cohort" seed=4242 "${cohort[@]}"

stage "find and measure cells"
checkpoint=$(ls -d "$folder/detectors/det_fcos_r18_pafpn_tomogram$suffix"/*"seed=${seeds%%,*}"*/checkpoints/best.ckpt | head -n 1)
if [[ -f $folder/measured_$method/cells.csv ]]; then
    echo "done: $folder/measured_$method"
else
    $hemolens predict pipeline=hematology "hematology.method=$method" "ckpt_path='$checkpoint'" \
        "input=$folder/cohort" "output=$folder/measured_$method"
fi

stage "report"
$hemolens report "runs=[$folder/detectors,$folder/measured_$method]" "output=$folder/report" overwrite=true
stage "done"
