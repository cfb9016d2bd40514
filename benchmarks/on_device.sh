#!/usr/bin/env bash
# All measurements on an accelerator; in several calls if a call may take ten minutes:
#
#   benchmarks/on_device.sh agreement card    correctness and speed: 4 minutes
#   benchmarks/on_device.sh torch             against PyTorch: 8 minutes, most of them compiling
#   benchmarks/on_device.sh throughput        DICOM to DICOM, by the number of workers
#   benchmarks/on_device.sh train             simulation 4 minutes, training as below
#   OPEN_CT=… benchmarks/on_device.sh open    the pairs and the training of docs/weights.md, width 32
#   benchmarks/on_device.sh                   all but the last
#
# Results go into $OUT (benchmarks/results by default), named by date and device. Training has the
# size of the publication: 2100 pairs, 200 epochs, 256². It ends after $TRAIN_SECONDS with a
# checkpoint; a further call with the same $WORKDIR continues it. So does the training of `open`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
workdir=${WORKDIR:-runs/on_device}
parts=${*:-agreement card torch throughput train}

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
    $python main.py --mode=benchmark --config=configs/attn.py:published --checkpoint=attn_dfgan \
        --workdir="$workdir/card"
    cp "$workdir/card/benchmark.json" "$results-card.json"
fi
if wants torch; then
    $python -m benchmarks.against_torch --gpu_budget=450 --json="$results-against_torch.json"
fi
if wants throughput; then
    $python -m benchmarks.denoise_throughput --width=32 --workers="${WORKERS:-0,4,8,16}" --rounds=2 \
        --json="$results-denoise_throughput.json"
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
if wants open; then
    scans=$(realpath "${OPEN_CT:?the folder of the open scans}")
    root=$PWD
    open=$(realpath -m "$workdir/open")
    mkdir -p "$open/open_pairs"
    cd "$open"
    ln -sfn "$scans" open_ct
    pair() {  # NAME FLAG…
        [[ -e open_pairs/$1 ]] || JAX_PLATFORMS=cpu $python "$root/main.py" --mode=simulate \
            --output="open_pairs/$1" "${@:2}" >"$1.log" 2>&1
    }
    train=(--input=open_ct/train --split=0.8,0.2,0 --dose_fraction=0.05..0.5)
    valid=()
    for slice in cptac_pda/C3N-00249/012 c4kc_kits/KiTS-00072/009 tcga_luad/TCGA-17-Z058/000 \
        tcga_lusc/TCGA-34-A5IX/000 tcga_lusc/TCGA-60-2724/000; do
        valid+=(--input="open_ct/train/$slice.dcm")
    done
    pair native "${train[@]}" & simulations+=($!)
    pair native_2 "${train[@]}" --noise_seed=2 & simulations+=($!)
    pair refiltered "${train[@]}" --refilter=2.8..6.5 --noise_seed=1 & simulations+=($!)
    pair sharp "${train[@]}" --refilter=5..14 --noise_seed=3 & simulations+=($!)
    pair phantoms --config="$root/configs/attn.py" --config.data.size=512 \
        --config.simulation.train_slices=100 --config.simulation.valid_slices=1 \
        --config.simulation.test_slices=1 & simulations+=($!)
    pair valid.npy "${valid[@]}" --dose_fraction=0.05..0.5 & simulations+=($!)
    pair test.npy --input=open_ct/test & simulations+=($!)
    for simulation in "${simulations[@]}"; do
        wait "$simulation" || { tail -n 3 ./*.log >&2; exit 1; }
    done
    status=0
    timeout --signal=TERM "${TRAIN_SECONDS:-590}" \
        $python "$root/main.py" --config="$root/configs/attn.py:open" --workdir="$open/run" \
        --config.generator.width="${WIDTH:-32}" --config.evaluation.baselines= || status=$?
    echo "training of the open variant: exit status $status"
    cd "$root"
    [[ ! -f $open/run/metrics.jsonl ]] || cp "$open/run/metrics.jsonl" "$results-open-metrics.jsonl"
fi
