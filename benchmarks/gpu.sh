#!/usr/bin/env bash
# Everything that only a GPU can show, in pieces of nine minutes, with nothing to type:
#
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER            # speed, tests, and a first table of image networks
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER catalogue  # the catalogue of losses at real size: call it again and again
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER generations
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER tokens
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER teachers
#     benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER rates      # of the 30-epoch recipes, chosen on held-out images
#
# At hand must be: one NVIDIA GPU with its driver; a Python ($PYTHON, else .venv/bin/python, else python3) with a CUDA
# build of torch, this package and its extras "test", "images" and "text"; a C++ compiler for torch.compile; in
# DATA_FOLDER cifar10_jpeg.npz, cifar10h.npz and tinyimagenet100_32px.npz (what is in them: benchmarks/images.py and
# benchmarks/human_images.py) and tinyshakespeare.txt.gz; some gigabytes in OUT_FOLDER. No network is used.
#
# Each step has its share of the time; one that fails or runs out of it is noted in OUT_FOLDER/summary.md and
# summary.json, and the next one starts. What a step printed is in OUT_FOLDER/STEP.log, its tables beside it. A second
# call with the same OUT_FOLDER goes on with what trains networks. PRECEPTOR_TINY=1 runs tiny forms of the same on a CPU,
# and needs no data: it measures nothing.
set -uo pipefail

piece=${3:-first}
if [ $# -lt 2 ] || [ $# -gt 3 ] || [[ ! $piece =~ ^(first|catalogue|generations|tokens|teachers|rates)$ ]]; then
    echo "usage: benchmarks/gpu.sh DATA_FOLDER OUT_FOLDER [first|catalogue|generations|tokens|teachers|rates]" >&2
    exit 2
fi
mkdir -p "$2" || exit 2
data=$(realpath "$1") out=$(realpath "$2")
cd "$(dirname "$0")/.." || exit 2

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
tiny=${PRECEPTOR_TINY:-}
if [ -z "$tiny" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch sees no NVIDIA GPU; install a CUDA build of torch, or set PRECEPTOR_TINY=1 for a tiny form on the CPU" >&2
    exit 2
fi

# The large form of human_images needs hours: here small networks, a fifth of the images, and little of each list.
human=(
    'seeds=[0,1]'
    'teach.split={train: 10000, heldout: 2500, test: rest}'
    'distill.split={train: 10000, heldout: 2500, test: rest}'
    'teach.model=resnet20'
    'distill.model=resnet8'
    'teach.training.epochs=6'
    'teach.training.checkpoint_epochs=[3, 6]'
    'distill.training.epochs=6'
    'distill.training.checkpoint_epochs=6'
    'teachers={cross_entropy: {objective: cross_entropy}, mse: {objective: mse}}'
    'candidates={ce-6: {of: cross_entropy@6}, ce-3: {of: cross_entropy@3}, mse-6: {of: mse@6}}'
    'losses={kd: {loss: {name: kd, temperature: 1.0}}, ttm: {loss: {name: ttm, temperature: 2.0}}}'
)
if [ -n "$tiny" ]; then
    throughput=(--device cpu --quick)
    losses=(--device cpu --quick)
    linear=(--quick)
    human=(--quick)
    arena=(--quick --device cpu)
    catalogue=(--quick --device cpu --teachers ce mse --losses kd AT SP)
    generations=(--quick --device cpu)
    tokens=(--quick --device cpu)
    teachers=(--quick --device cpu)
    rates=(--quick --device cpu)
else
    throughput=(--device cuda --pairs resnet32x4/resnet8x4 --batches 512 --rounds 1 --epochs 1)
    losses=(--device cuda --seconds 0.4 --rounds 5)
    linear=(--device cuda --dtype bfloat16 --sizes 49152,2048,576 128256,8192,2048)
    human=(--data "$data/cifar10_jpeg.npz" --counts "$data/cifar10h.npz" "${human[@]}")
    arena=(--size gpu --budget 200 --data-dir "$data")
    catalogue=(--budget 470 --data-dir "$data")
    generations=(--size gpu --budget 470 --data-dir "$data")
    tokens=(--size gpu --budget 470 --data-dir "$data")
    teachers=(--size gpu --budget 470 --data-dir "$data")
    rates=(--size gpu --budget 470 --data-dir "$data")
fi

names=() results=() times=()

# step NAME SECONDS COMMAND...: run it, and note how it ended.
step() {
    local name=$1 seconds=$2 start=$SECONDS code
    shift 2
    echo "== $name, at most $seconds s" >&2
    timeout --signal=INT --kill-after=5 "$seconds" "$@" >"$out/$name.log" 2>&1 </dev/null
    code=$?
    case $code in
    0) results+=("complete") ;;
    124 | 137) results+=("out of time after $seconds s") ;;
    *) results+=("failed ($code): $(tail -n 1 "$out/$name.log" | tr -d '"\\|' | cut -c 1-200)") ;;
    esac
    names+=("$name") times+=($((SECONDS - start)))
    echo "   ${results[-1]}" >&2
}

# script NAME SECONDS ARGUMENTS...: a step that is one of our scripts.
script() {
    local name=$1 seconds=$2
    shift 2
    step "$name" "$seconds" "$PYTHON" "benchmarks/$name.py" "$@"
}

# The first table of the catalogue that is not complete; each takes many pieces.
of_catalogue() {
    local pair
    for pair in wrn resnet unlike; do
        [ -f "$out/catalogue-$pair/complete" ] && continue
        [ -n "$tiny" ] || catalogue+=(--size "catalogue-$pair")
        step "catalogue-$pair" 500 "$PYTHON" benchmarks/arena.py "${catalogue[@]}" --out "$out/catalogue-$pair"
        grep -q "the budget allows no further run" "$out/catalogue-$pair.log" || touch "$out/catalogue-$pair/complete"
        return
    done
}

tables=(throughput.md losses.md linear_losses.md arena/arena.md human-images/gpu/table.md)
if [ "$piece" = catalogue ]; then
    of_catalogue
    tables=(catalogue-wrn/arena.md catalogue-resnet/arena.md catalogue-unlike/arena.md)
elif [ "$piece" = generations ]; then
    script generations 500 "${generations[@]}" --out "$out/generations"
    tables=(generations/generations.md)
elif [ "$piece" = tokens ]; then
    script tokens 500 "${tokens[@]}" --out "$out/tokens"
    tables=(tokens/tokens.md)
elif [ "$piece" = teachers ]; then
    script teachers 500 "${teachers[@]}" --out "$out/teachers"
    tables=(teachers/teachers.md)
elif [ "$piece" = rates ]; then
    script rates 500 "${rates[@]}" --out "$out/rates"
    tables=(rates/rates.md)
else
    script throughput 130 "${throughput[@]}" --json "$out/throughput.json" --markdown "$out/throughput.md"
    script losses 45 "${losses[@]}" --json "$out/losses.json" --markdown "$out/losses.md"
    script linear_losses 40 "${linear[@]}" --json "$out/linear_losses.json"
    cp "$out/linear_losses.log" "$out/linear_losses.md" 2>/dev/null
    step tests 45 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider
    script human_images 50 --gpu --out "$out/human-images" "${human[@]}"
    script arena 210 "${arena[@]}" --out "$out/arena"
fi

driver=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi")
versions=$("$PYTHON" -c 'import preceptor, torch; print(preceptor.__version__, torch.__version__, torch.version.cuda)')
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)

# The same as Markdown and as JSON.
{
    echo "# benchmarks/gpu.sh${tiny:+, tiny form: measures nothing}"
    echo
    echo "GPU: $driver; preceptor, torch, CUDA: $versions; commit $commit"
    echo
    echo "| step | seconds | how it ended |"
    echo "| :-- | --: | :-- |"
    for i in "${!names[@]}"; do
        echo "| ${names[i]} | ${times[i]} | ${results[i]} |"
    done
    for table in "${tables[@]}"; do
        if [ -f "$out/$table" ]; then
            printf '\n## %s\n\n' "$table"
            cat "$out/$table"
        fi
    done
} >"$out/summary.md"
{
    printf '{"tiny": %s, "gpu": "%s", "versions": "%s", "commit": "%s", "steps": [' \
        "$([ -n "$tiny" ] && echo true || echo false)" "$driver" "$versions" "$commit"
    for i in "${!names[@]}"; do
        [ "$i" -gt 0 ] && printf ', '
        printf '{"step": "%s", "seconds": %d, "ended": "%s"}' "${names[i]}" "${times[i]}" "${results[i]}"
    done
    printf ']}\n'
} >"$out/summary.json"

cat "$out/summary.md"
for result in "${results[@]}"; do
    [ "$result" = "complete" ] || exit 1
done
