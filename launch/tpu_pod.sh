#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU pod, from a machine with gcloud:
#
#   launch/tpu_pod.sh --name=dfgan --zone=us-west4-a -- --config=configs/attn.py --workdir=runs/attn
#
# What follows -- goes to main.py on every worker. Paths are those of the workers, relative to the
# copy of the repository's last commit that this puts there. Only worker 0 writes the workdir: to
# its own disk, which ends with the TPU, or to what --prepare mounts. Every worker reads the data.
#
#   --name=NAME --zone=ZONE      of the TPU
#   --accelerator-type=TYPE      requests the TPU, as a queued resource of this name, now and after
#   --runtime-version=VERSION    a preemption: v5litepod-16 and v2-alpha-tpuv5-lite, for example
#   --create-option=OPTION       for that request, such as --spot; several if given several times
#   --ssh-option=OPTION          for gcloud's ssh and scp, such as --tunnel-through-iap; likewise
#   --prepare=COMMAND            runs on every worker before each start: mounts storage, for example
#   --dry-run                    prints the commands, as if all of them succeeded
#
# Ctrl-C stops the run after saving. Without the TPU's type it waits for a TPU that is gone.
# Where the connection breaks, main.py runs on until this, started again, stops it after saving and
# goes on from there. MAX_RESTARTS (10) limits restarts after ends that saved nothing: a crash, a
# signal outside of training, or an installation that failed; and the failures of gcloud in a row
# while this waits for the TPU. POLL_SECONDS (60) are between them. See docs/clusters.md.
set -euo pipefail

readonly folder=dfgan  # in the home of every worker

on_worker() {  # this, called there with main.py's arguments
    stop_on_worker
    # Into a file, so that a broken connection does not break what main.py prints; a new one,
    # opened before main.py starts, so that each run's reader shows its own run to the end.
    rm -f main.log
    exec 3> main.log 4< main.log
    "$PWD/venv/bin/python" main.py "$@" >&3 2>&1 &
    local process=$!
    tail --follow --lines=+1 --pid=$process <&4 || true
    wait $process
}

stop_on_worker() {  # main.py saves, and has two minutes for it
    local running="$PWD/venv/bin/python main[.]py"
    for signal in TERM KILL; do
        pkill "-$signal" --full "$running" || return 0
        for _ in {1..120}; do
            pgrep --full "$running" > /dev/null || return 0
            sleep 1
        done
    done
}

case ${1-} in
--on-worker) cd "$(dirname "$0")/.."; on_worker "${@:2}"; exit ;;
--stop-on-worker) cd "$(dirname "$0")/.."; stop_on_worker; exit ;;
esac

name='' zone='' accelerator_type='' runtime_version='' prepare='' dry_run='' given=''
create_options=() ssh_options=()
while (($#)); do
    case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --accelerator-type=*) accelerator_type=${1#*=} ;;
    --runtime-version=*) runtime_version=${1#*=} ;;
    --create-option=*) create_options+=("${1#*=}") ;;
    --ssh-option=*) ssh_options+=("${1#*=}") ;;
    --prepare=*) prepare=${1#*=} ;;
    --dry-run) dry_run=1 ;;
    --) given=1; shift; break ;;
    *) echo "error: unknown option $1; main.py's come after --" >&2; exit 2 ;;
    esac
    shift
done
if [[ -z $name || -z $zone || -z $given ]]; then
    echo "usage: $0 --name=NAME --zone=ZONE [OPTIONS] -- --config=… --workdir=…" >&2
    exit 2
fi
if [[ -n $accelerator_type && -z $runtime_version ]]; then
    echo "error: --accelerator-type needs --runtime-version, such as v2-alpha-tpuv5-lite" >&2
    exit 2
fi

run() {
    if [[ $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

tpus() {  # group and command of gcloud, name, options
    run gcloud compute tpus "$1" "$2" "$3" --zone="$zone" "${@:4}"
}

on_all() {
    tpus tpu-vm ssh "$name" --worker=all ${ssh_options[@]+"${ssh_options[@]}"} --command="$1"
}

state() {  # of the TPU or of its request; NONE where there is none, UNKNOWN where gcloud fails
    local errors
    errors=$(mktemp)
    if gcloud compute tpus "$1" describe "$name" --zone="$zone" --format="value($2)" \
        2> "$errors"; then :
    elif grep -q NOT_FOUND "$errors"; then echo NONE
    else
        cat "$errors" >&2
        echo UNKNOWN
    fi
    rm "$errors"
}

request() {  # a place in the queue
    tpus queued-resources create "$name" --node-id="$name" --async \
        --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" \
        ${create_options[@]+"${create_options[@]}"}
}

wait_for_tpu() {
    if [[ $dry_run && $accelerator_type ]]; then request; fi
    local failures=0
    while [[ ! $dry_run && $(state tpu-vm state) != READY ]]; do
        if [[ $accelerator_type ]]; then
            # A request where there may be one already would only be an error.
            case $(state queued-resources state.state) in
            NONE) request ;;
            SUSPENDED | FAILED) tpus queued-resources delete "$name" --force --quiet && request ;;
            UNKNOWN) false ;;
            esac && failures=0 || failures=$((failures + 1))
            if ((failures > ${MAX_RESTARTS:-10})); then
                echo "error: gcloud failed $failures times in a row" >&2
                exit 1
            fi
        fi
        echo "Waiting for TPU $name"
        sleep "${POLL_SECONDS:-60}"
    done
}

install() {
    local archive status=0
    archive=$(mktemp)
    # uv brings a Python of its own: the TPU's images have an older one than JAX needs.
    { run git -C "$(dirname "$0")/.." archive --format=tar --output="$archive" HEAD &&
        tpus tpu-vm scp "$archive" "$name:$folder.tar" --worker=all \
            ${ssh_options[@]+"${ssh_options[@]}"}; } || status=$?
    rm "$archive"
    ((status == 0)) || return "$status"
    on_all "mkdir -p $folder && tar -xf $folder.tar -C $folder && cd $folder && \
python3 -m pip install --quiet --user uv && \
{ [ -d venv ] || python3 -m uv venv --quiet --python 3.12 venv; } && \
python3 -m uv pip install --quiet --python venv/bin/python -r requirements.txt 'jax[tpu]'" &&
        if [[ $prepare ]]; then on_all "cd $folder && $prepare"; fi
}

stop() {
    trap '' INT
    echo "Stopping main.py on all workers"
    on_all "bash $folder/launch/tpu_pod.sh --stop-on-worker" || true
    exit 130
}
trap stop INT

arguments=$(printf ' %q' "$@")
restarts=0
while true; do
    wait_for_tpu
    status=0 installed=''
    # The exit status is that of the first worker that did not end well; 255 where ssh failed.
    { install && installed=1 &&
        on_all "bash $folder/launch/tpu_pod.sh --on-worker$arguments"; } || status=$?
    if ((status == 0)); then exit 0; fi
    found=$(state tpu-vm state)
    if [[ $found != READY && $found != UNKNOWN ]]; then
        echo "TPU $name is lost; going on with the next"
    elif ((status == 85)); then
        echo "Stopped by a signal, and new steps are saved; going on"
    elif [[ $installed && $found == READY ]] && ((status != 75 && status <= 130)); then
        exit "$status"  # an error, which would come again
    elif ((restarts >= ${MAX_RESTARTS:-10})); then
        echo "error: status $status after $restarts restarts" >&2
        exit "$status"
    else
        restarts=$((restarts + 1))
        echo "Status $status: restart $restarts"
        sleep "${POLL_SECONDS:-60}"
    fi
done
