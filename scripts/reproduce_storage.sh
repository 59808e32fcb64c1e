#!/usr/bin/env bash
# Paper B from nothing: diffusion GANs, generated pairs, pretraining, the ablation, baselines, stored blood, the report.
#
#   scripts/reproduce_storage.sh trial [folder]   a step of everything: does it run here? A quarter of an hour of a CPU
#   scripts/reproduce_storage.sh quick [folder]   the *_tiny experiments, one seed: every stage and figure, trained for two
#                                                 minutes each, so that scores are low; an hour of a CPU of two cores
#   scripts/reproduce_storage.sh full  [folder]   the paper's networks and sizes, five seeds: days of a GPU; not run yet
#
# A stage that is complete with the same settings and inputs is skipped, an interrupted one goes on, and what other settings
# made is set aside (<name>.attempt1): run it again after a stop. The report lies in <folder>/report/report.html, what was
# printed in <folder>/reproduce.log [outputs/reproduce_storage_<size>].
# Variables: SEEDS (of the ablation, e.g. 0,1,2), ARMS and BASELINES (lists with blanks), WORDS (for every training, e.g.
# "trainer=gpu logger=wandb"), HEMOLENS and PYTHON (the commands).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,15s/^# \{0,1\}//p' "$0"; }
size=${1:-}
words=()
case $size in
    -h | --help) usage; exit 0 ;;
    trial | quick)
        of=tiny small=_s resunet=resunet18 ablation=resunet18_simholo_tiny
        cut=(data=sim_holograms_tiny)
        # networks of two minutes make nothing plausible: the rule of the choice is off, and the pairs are for show
        rule=(select.max_touching=1 select.min_cells=0 'select.cell_area_um2=[0,1e6]' 'select.cell_phase_rad=[-99,99]'
            select.background_rad=99 select.foreground_rad=0.1 select.mask_phase_overlap=0)
        count=200 chosen=40 turned=160 series=() seeds=${SEEDS:-0}
        if [[ $size == trial ]]; then
            words=(debug=one_step)
            count=4 chosen=2 turned=4
            series=('data.blood.storage_day=[8,40,57]' data.fields_per_sample=2 'data.field_px=[450,450]')
        fi
        ;;
    full)
        of="" small="" resunet=resunet ablation=resunet_simholo_ablation
        cut=() rule=() series=() count=5000 chosen=500 turned=2000 seeds=${SEEDS:-0,1,2,3,4}
        ;;
    *) usage >&2; exit 2 ;;
esac
read -ra arms <<<"${ARMS:-plain da ssl da_ssl rotated oracle}"
read -ra baselines <<<"${BASELINES:-unet fcn pspnet deeplabv3plus gan_watershed}"
read -ra more <<<"${WORDS:-}"
words+=("${more[@]}")
hemolens=${HEMOLENS:-hemolens} python=${PYTHON:-python}
command -v "${hemolens%% *}" >/dev/null || { echo "no command $hemolens: activate the environment, or set HEMOLENS" >&2; exit 2; }
storage_arm=${arms[-1]} # what reads the stored blood: the paper's method, or the last of ARMS
wanted() { [[ " ${arms[*]} " == *" $1 "* ]]; }
wanted da_ssl && storage_arm=da_ssl

mkdir -p "${2:-outputs/reproduce_storage_$size}"
folder=$(cd "${2:-outputs/reproduce_storage_$size}" && pwd)
exec 9>"$folder/.lock"
flock -n 9 || { echo "$folder is in use by another run of this script: wait for it, or choose another folder" >&2; exit 2; }
export HEMOLENS_DATA=$folder/data # simulated images, and what the arms of the ablation read
pairs=$HEMOLENS_DATA/ablation
mkdir -p "$folder/stages" "$pairs"
exec > >(tee -i -a "$folder/reproduce.log" 9>&-) 2>&1
log=$!
leave() {
    local code=$?
    ((code == 0)) || echo "stopped (exit code $code): the same command goes on from here"
    exec >&- 2>&-
    wait $log # the log is whole before the prompt is back
}
trap leave EXIT

# Stages and their minutes in `quick` on two cores, from which the time that is left is judged.
plan=(series:3 phases:3 gan_phase:3 gan_mask:3 pairs:2 ssl:3)
for name in rotated oracle; do if wanted $name; then plan+=("$name:1"); fi; done
for arm in "${arms[@]}"; do plan+=("arm_$arm:3"); done
for net in "${baselines[@]}"; do plan+=("baseline_$net:3"); done
[[ $size == trial ]] || plan+=(calibration:1)
plan+=(stored:3 report:1)
total=0 passed=0 worked=0 number=0 started=$SECONDS
for item in "${plan[@]}"; do total=$((total + ${item#*:})); done

progress() { # NAME
    local left="" minutes=$(((SECONDS - started) / 60))
    number=$((number + 1))
    ((worked > 0)) && left=", about $(((total - passed) * (SECONDS - started) / worked / 60 + 1)) min left"
    printf '\n== [%d/%d] %s (%d min so far%s)\n' "$number" "${#plan[@]}" "$1" "$minutes" "$left"
}

# once NAME OUTPUT goes_on|again INPUTS... -- COMMAND...: run the command unless it is complete with these settings and inputs.
# goes_on: the command itself goes on with what it began; again: it wants a new output.
once() {
    local name=$1 output=$2 way=$3 inputs=() config key state=none item
    shift 3
    while [[ $1 != -- ]]; do inputs+=("$1"); shift; done
    shift
    progress "$name"
    config=$(settings "$@")
    key=$( (echo "$config"; printf '%s\n' "$@"; for item in "${inputs[@]}"; do digest "$item"; done) | sha256sum | cut -c1-32)
    [[ -f $folder/stages/$name ]] && state=$(<"$folder/stages/$name")
    for item in "${plan[@]}"; do [[ ${item%%:*} == "$name" ]] && local minutes=${item#*:}; done
    passed=$((passed + minutes))
    if [[ $state == "complete $key" && -e $output ]]; then
        echo "skipped, already complete: $output"
        return
    fi
    if [[ -e $output && ($state != *" $key" || $way == again) ]]; then
        local attempt=1
        while [[ -e $output.attempt$attempt ]]; do attempt=$((attempt + 1)); done
        mv "$output" "$output.attempt$attempt"
        echo "what was there is of other settings or unfinished, and is kept in $output.attempt$attempt"
    fi
    note "$name" "running $key"
    "$@"
    note "$name" "complete $key"
    worked=$((worked + minutes))
}

note() { echo "$2" >"$folder/stages/.$1" && mv "$folder/stages/.$1" "$folder/stages/$1"; }

digest() { # of a file, or of all in a folder
    if [[ -d $1 ]]; then (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); else sha256sum <"$1"; fi
}

settings() { # of a command: its resolved config, of the first seed; of a script, the script
    local verb=train word plain=()
    case $1 in
        control) cat scripts/make_control_pairs.py configs/data/sim_holograms*.yaml; return ;;
        train) shift ;;
        hemo) verb=$2; shift 2 ;;
    esac
    for word; do
        [[ $word == seed=* ]] && word=${word%%,*}
        plain+=("$word")
    done
    hemo "$verb" "${plain[@]}" --cfg job --resolve
}

hemo() { $hemolens "$@"; }
train() { hemo train -m "$@"; } # skips what is complete, goes on with what was interrupted, repeats what failed
control() { $python scripts/make_control_pairs.py "$@"; }

best() { # the checkpoint of a finished training
    local found
    found=$(find "$1" -path '*.attempt*' -prune -o -path '*/checkpoints/best.ckpt' -print | sort | head -n 1)
    [[ -n $found ]] || { echo "no checkpoint in $1: remove that folder and run this again" >&2; exit 1; }
    printf '%s' "$found"
}

experiment() { printf 'experiment=%s%s' "$1" "${of:+_$of}"; }

# Stored blood: other donors and optics than the training images, which the data sets simulate and reconstruct themselves.
once series "$folder/series" goes_on -- hemo simulate data=sim_storage "output=$folder/series" "${series[@]}"
once phases "$folder/phases" goes_on "$folder/series/manifest.csv" -- \
    hemo reconstruct "input=$folder/series/holograms" "manifest=$folder/series/manifest.csv" "output=$folder/phases"

for gan in gan_phase gan_mask; do
    once $gan "$folder/$gan" goes_on -- train "$(experiment ${gan}_simholo)" seed=0 "hydra.sweep.dir=$folder/$gan" "${words[@]}"
done
phase=$(best "$folder/gan_phase") mask=$(best "$folder/gan_mask")
once pairs "$pairs/generated" goes_on "$phase" "$mask" -- hemo generate "phase_ckpt='$phase'" "mask_ckpt='$mask'" \
    "output=$pairs/generated" n=$count select.count=$chosen augment.count=$turned "${rule[@]}"

once ssl "$folder/ssl" goes_on -- train "$(experiment ssl_${resunet}_simholo)" seed=0 "hydra.sweep.dir=$folder/ssl" "${words[@]}"
cp "$(best "$folder/ssl")" "$pairs/.ssl.ckpt" && mv "$pairs/.ssl.ckpt" "$pairs/ssl.ckpt"

for name in rotated oracle; do
    wanted $name || continue
    sources=()
    [[ $name == rotated ]] && sources=(--sources $chosen)
    once $name "$pairs/$name" goes_on -- control $name "$pairs/$name" --count $turned "${sources[@]}" "${cut[@]}"
done

# Six arms at equal steps.
for arm in "${arms[@]}"; do
    inputs=()
    case $arm in
        da) inputs=("$pairs/generated/augmented") ;;
        ssl) inputs=("$pairs/ssl.ckpt") ;;
        da_ssl) inputs=("$pairs/generated/augmented" "$pairs/ssl.ckpt") ;;
        rotated) inputs=("$pairs/rotated/augmented") ;;
        oracle) inputs=("$pairs/oracle") ;;
    esac
    once "arm_$arm" "$folder/ablation/$arm" goes_on "${inputs[@]}" -- train "experiment=seg_$ablation" "arm=$arm" \
        "seed=$seeds" "hydra.sweep.dir=$folder/ablation/$arm" "${words[@]}"
done

for net in "${baselines[@]}"; do
    once "baseline_$net" "$folder/baselines/$net" goes_on -- train "$(experiment "seg_$net${small}_simholo")" seed=0 \
        "hydra.sweep.dir=$folder/baselines/$net" "${words[@]}"
done

# Types are calibrated beside the checkpoint, where `predict` finds it; after one step there are no cells to do it with.
network=$(best "$folder/ablation/$storage_arm")
calibration=()
if [[ $size != trial ]]; then
    once calibration "$folder/calibration" again "$network" -- hemo eval "ckpt_path='$network'" calibrate=true \
        "hydra.run.dir=$folder/calibration" logger=csv
    calibration=("$folder/calibration/calibration.json")
fi
once stored "$folder/stored" again "$network" "${calibration[@]}" "$folder/series/manifest.csv" -- \
    hemo predict pipeline=storage "ckpt_path='$network'" "input=$folder/phases" \
    "hologram.manifest=$folder/series/manifest.csv" "output=$folder/stored"

runs=("$folder/ablation" "$folder/baselines" "$folder/stored")
[[ -e $pairs/generated/selected/accept.csv ]] && runs+=("$pairs/generated")
once report "$folder/report" again "$folder/stored/storage.json" -- hemo report paper=storage \
    "runs=[$(IFS=,; echo "${runs[*]}")]" "output=$folder/report"
printf '\n== done in %d min: %s\n' $(((SECONDS - started) / 60)) "$folder/report/report.html"
