#!/usr/bin/env bash
# All measurements on an accelerator; in several calls if a call may take ten minutes:
#
#   benchmarks/on_device.sh agreement card    correctness and speed: 4 minutes
#   benchmarks/on_device.sh torch             against PyTorch: 8 minutes, most of them compiling
#   benchmarks/on_device.sh train             simulation 4 minutes, training as below
#   benchmarks/on_device.sh                   all of them
#
# Results go into $OUT (benchmarks/results by default), named by date and device. Training has the
# size of the publication: 2100 pairs, 200 epochs, 256². It ends after $TRAIN_SECONDS with a
# checkpoint; a further call with the same $WORKDIR continues it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
workdir=${WORKDIR:-runs/on_device}
parts=${*:-agreement card torch train}

# Packages that the machine lacks, as wheels.
if compgen -G ".whl/*.whl" >/dev/null; then
    $python -m pip install --quiet --no-index --no-deps --no-compile --target "$workdir/site" \
        --upgrade .whl/*.whl
    export PYTHONPATH="$workdir/site:$PYTHONPATH"
fi

device=$($python -c "import jax; print(jax.devices()[0].device_kind.replace(' ', '_'))")
results=${OUT:-benchmarks/results}/$(date +%F)-$device
mkdir -p "$(dirname "$results")" "$workdir"

wants() { [[ " $parts " == *" $1 "* ]]; }

# Simulation takes minutes on a CPU, during which the accelerator is measured. One process for
# each split, of whose files only this split is used.
simulate() {
    rm -rf "$workdir/simulated_$1"
    $python main.py --mode=simulate --config=configs/attn.py --output="$workdir/simulated_$1" \
        --config.simulation.train_slices="$2" --config.simulation.valid_slices="$3" \
        --config.simulation.test_slices="$4" >"$workdir/simulated_$1.log" 2>&1
}
simulations=()
trap 'kill "${simulations[@]}" 2>/dev/null || true' EXIT
if wants train; then
    [[ -f $workdir/simulated_train/train.npy ]] || { simulate train 2100 1 1 & simulations+=($!); }
    [[ -f $workdir/simulated_valid/valid.npy ]] || { simulate valid 1 300 1 & simulations+=($!); }
    [[ -f $workdir/simulated_test/test.npy ]] || { simulate test 1 1 600 & simulations+=($!); }
fi

if wants agreement; then
    $python -m benchmarks.device_agreement --json="$results-agreement.json"
fi
if wants card; then
    $python main.py --mode=benchmark --config=configs/attn.py:published --workdir="$workdir/card"
    cp "$workdir/card/benchmark.json" "$results-card.json"
fi
if wants torch; then
    $python -m benchmarks.against_torch --gpu_budget=450 --json="$results-against_torch.json"
fi
if wants train; then
    for simulation in "${simulations[@]}"; do
        wait "$simulation" || { tail -n 3 "$workdir"/simulated_*.log >&2; exit 1; }
    done
    started=$(date +%s)
    status=0
    timeout --signal=TERM "${TRAIN_SECONDS:-590}" \
        $python main.py --config=configs/attn.py:published --workdir="$workdir/published" \
        --config.data.train="$workdir/simulated_train/train.npy" \
        --config.data.valid="$workdir/simulated_valid/valid.npy" \
        --config.data.test="$workdir/simulated_test/test.npy" \
        --config.evaluation.protocols=published --config.evaluation.baselines= \
        --config.evaluation.physics=False \
        --config.dtype=bfloat16 --config.log_every_steps=131 || status=$?
    echo "training and evaluation: $(($(date +%s) - started)) s, exit status $status"
    [[ ! -f $workdir/published/metrics.jsonl ]] ||
        cp "$workdir/published/metrics.jsonl" "$results-published-metrics.jsonl"
    [[ $status != 0 ]] || cp "$workdir/published/results.json" "$results-published-results.json"
fi
