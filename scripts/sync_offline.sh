#!/usr/bin/env bash
# Upload W&B runs that were logged offline: every one below a folder that has not been uploaded yet.
#
#   scripts/sync_offline.sh [--dry-run] [folder]     folder: of one run, a sweep, or all [outputs]
#
# Also those of a run that was stopped and resumed, oldest first: W&B joins the parts. What is done is marked beside the run
# (*.wandb.synced), so call it again after a failure or for new runs. A run that is still being written is left out, one
# that was killed on this machine is not; a folder named *.attempt1 holds what a later attempt replaced, and is left out too.
# Needs `wandb login`, once; --dry-run does not.
# Variables: WANDB (the command).
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
dry=
folder=
for word; do
    case $word in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry=1 ;;
        -*) usage >&2; exit 2 ;;
        *)
            [[ -z $folder ]] || { echo "one folder, not also $word" >&2; exit 2; }
            folder=$word
            ;;
    esac
done
folder=${folder:-outputs}
wandb=${WANDB:-wandb}
[[ -d $folder ]] || { echo "no folder $folder: give that of a run, or of a sweep" >&2; exit 2; }
command -v "$wandb" >/dev/null || { echo "no command $wandb: activate the environment, or set WANDB" >&2; exit 2; }

# The time of the start is in the name of the run's folder, so that parts of one run come in order.
found=()
while IFS= read -r run; do
    found+=("$run")
done < <(find -L "$folder" -type d -path '*/wandb/offline-run-*-*' -prune -not -path '*.attempt[0-9]*' -print |
    awk -F/ '{ print $NF "\t" $0 }' | LC_ALL=C sort | cut -f2-)
[[ ${#found[@]} -gt 0 ]] || { echo "no offline W&B runs below $folder: train with logger=wandb_offline" >&2; exit 2; }

# Whether a run says that it runs, and no process of this machine is it. Where it runs elsewhere, its word counts.
killed() {
    local status=$1 pid
    pid=$(sed -n 's/^ *"pid": \([0-9]*\),*$/\1/p' "$status")
    grep -qF "\"host\": \"$(uname -n)\"" "$status" && [[ -n $pid ]] && ! kill -0 "$pid" 2>/dev/null && [[ ! -e /proc/$pid ]]
}

todo=()
synced=0 open=0
for run in "${found[@]}"; do
    if compgen -G "$run/*.wandb.synced" >/dev/null; then
        synced=$((synced + 1))
    elif grep -qs '"state": "running"' "$run/../../status.json" && ! killed "$run/../../status.json"; then
        open=$((open + 1))
        echo "still running, left out: $run"
    else
        todo+=("$run")
    fi
done
echo "${#found[@]} offline runs below $folder: $synced uploaded before, $open running, ${#todo[@]} to upload"
if [[ -n $dry ]]; then
    [[ ${#todo[@]} -eq 0 ]] || printf '%s\n' "${todo[@]}"
    exit 0
fi
[[ ${#todo[@]} -gt 0 ]] || exit 0

said=$(mktemp)
trap 'rm -f "$said"' EXIT
failed=0 number=0
for run in "${todo[@]}"; do
    number=$((number + 1))
    echo "[$number/${#todo[@]}] $run"
    if ! "$wandb" sync --yes "$run" 2>&1 | tee "$said"; then
        failed=$((failed + 1))
        if grep -qiE 'wandb login|api[ _]key|not logged in|unauthori[sz]ed' "$said"; then
            echo "not logged in to W&B: run \`$wandb login\`, then this again" >&2
            exit 1
        fi
    elif ! compgen -G "$run/*.wandb.synced" >/dev/null; then
        # `wandb sync` marks what it has uploaded; without the mark it would come again
        failed=$((failed + 1))
        echo "no mark that $run was uploaded: see above" >&2
    fi
done
[[ $failed -eq 0 ]] || { echo "$failed of ${#todo[@]} were not uploaded: call this again" >&2; exit 1; }
echo "all uploaded"
