#!/usr/bin/env bash
# What needs a GPU, in parts for a machine that is rented by the minute:
#   runs/gpu.sh first [OUT]   4 minutes: wan_1_3b compiled at 512x512, the tests on the GPU, wan_1_3b compiled at 256x256
#   runs/gpu.sh second [OUT]  6 minutes: a step of each training, options of generation, stock diffusers beside it
#   runs/gpu.sh rest [OUT]    an hour: offloading, tiling, other trainings, wan_14b, several GPUs
# The first two end within their time whatever fails: each measurement has a limit of its own, the most valuable come
# first, and what no time is left for is named at the end. Each leaves a JSON file in OUT (benchmarks/results) when it is
# done, named by device and date (benchmarks/README.md says what its figures are); a log keeps what was said.
#
# The tree to copy to such a machine is 67 MB (git ls-files); of src/asymtalker/assets/tiny and weights, 59 MB of them,
# nothing is needed here. Nothing is installed but packages that its Python lacks, into a folder of their own:
#   PYTHON   a Python with PyTorch for the GPU (.venv/bin/python, else python3)
#   WHEELS   folder of wheels to take lacking packages from where no index can be reached
#   RECIPE, SIZES, SOUND   what is measured (wan_1_3b, "512x512 256x256"), and seconds of sound (6.28, two whole chunks);
#            SIZES=256x256 runs/gpu.sh first goes on where compiling took the time of the second size
#   LIMIT    seconds of the part (240, 360): those of each measurement grow with it
#   DEVICE   "cuda"; "cpu" tries the script out:
#            DEVICE=cpu RECIPE=smoke SIZES="64x64 64x96" SOUND=1 LIMIT=2400 runs/gpu.sh first /tmp/tried
#            On two cores that twenty other processes used, first and second ended 5 s before their LIMIT of 900 and 780,
#            with all compiled measurements stopped and named, the second in a tree without those 41 MB.
#   GPUS     of "rest": processes to share the work on a CPU (1); of GPUs, all train, and as many generate as share out the
#            heads and tokens of a recipe evenly
set -uo pipefail
SECONDS=0
out=$(realpath -m "${2:-$(dirname "$0")/../benchmarks/results}")
cd "$(dirname "$0")/.."
part=${1:-}
case $part in
    first) standard=240 ;;
    second) standard=360 ;;
    rest) standard=36000 ;;
    *) echo "gpu.sh: say which part: first, second or rest" >&2; exit 2 ;;
esac
limit=${LIMIT:-$standard}
end=$((limit - 8))  # what is stopped has 3 seconds to go, and the table takes 2
least=5             # seconds under which nothing is begun
recipe=${RECIPE:-wan_1_3b}
read -ra sizes <<<"${SIZES:-512x512 256x256}"
sound=${SOUND:-6.28}
device=${DEVICE:-cuda}
if [ -z "${PYTHON:-}" ]; then PYTHON=python3; [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python; fi
mkdir -p "$out"
log=$out/gpu-$part.log
: >"$log"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
running=
trap 'kill $running 2>/dev/null; exit 143' TERM INT HUP
export PYTHONPATH=$PWD/src:$temporary/packages PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=$temporary/compiled
made=() lost=()

# SECONDS NAME COMMAND...: run it for so long at most, and not past the end of the part; all it says goes into the log, by
# no pipe, which a process left behind could hold open
run() {
    local seconds=$(($1 * limit / standard)) name=$2 left=$((end - SECONDS)) begin=$SECONDS status
    shift 2
    [ "$seconds" -le "$left" ] || seconds=$left
    if [ "$seconds" -lt "$least" ]; then
        lost+=("$name: no time was left")
        return 1
    fi
    echo "== $name, at most $seconds s" | tee -a "$log" >&2
    timeout --kill-after=3 "$seconds" "$@" >>"$log" 2>&1 </dev/null &
    running=$!
    wait "$running" 2>/dev/null  # without bash's own line on what was killed
    status=$?
    running=
    case $status in
        0) echo "   $((SECONDS - begin)) s" >&2; return ;;
        124 | 137) lost+=("$name: stopped after $((SECONDS - begin)) s") ;;
        *) lost+=("$name: $(grep . "$log" | tail -n 1)") ;;
    esac
    rm -rf "$TORCHINDUCTOR_CACHE_DIR"  # one that was stopped may leave half a file there, at which the next would fail
    echo "   ${lost[-1]}" >&2
    return 1
}

# SECONDS NAME VERB OPTIONS...: one measurement of asymtalker bench
measure() {
    local seconds=$1 name=$2 verb=$3 file=$out/$2-$label.json
    shift 3
    run "$seconds" "$name" "$PYTHON" -m asymtalker bench "$verb" --random-weights --device "$device" "$@" --out "$file"
    [ ! -f "$file" ] || made+=("$file")
}

# SECONDS SIZE NAME OPTIONS...: generation at a size, without and with the yardstick
yardstick() { measure "$1" "$recipe-$2$3" generate --recipe "$recipe" --size "$2" --seconds "$sound" "${@:4}"; }
generation() { yardstick "$@" --no-stock; }

# SECONDS SIZE VERB NAME OPTIONS...: the step of a training at a size
step() { measure "$1" "$recipe-$3-$2$4" "$3" --recipe "$recipe" --size "$2" "${@:5}"; }

# Packages that are lacking and, as it seems, those that they lack in their turn
install() {
    local from=() names round
    [ -z "${WHEELS:-}" ] || from=(--no-index --find-links "$WHEELS")
    for round in 1 2 3; do
        names=$("$PYTHON" runs/missing.py "$@") || return
        [ -n "$names" ] || return 0
        echo "installing $names"
        # shellcheck disable=SC2086  # one word each
        "$PYTHON" -m pip install --quiet --no-deps --no-compile --retries 0 --timeout 5 --disable-pip-version-check \
            --target "$temporary/packages" "${from[@]}" $names || return
    done
}
export -f install
export PYTHON WHEELS=${WHEELS:-} temporary device
run 30 packages bash -c 'install pytest pytest-timeout'
[ "$part" = first ] || run 10 torchao bash -c 'install torchao'

preview=$temporary/preview.pth  # random weights take as long
run 30 device "$PYTHON" -c '
import os, sys, torch
cuda = os.environ["device"] != "cpu"
if cuda and not torch.cuda.is_available():
    sys.exit("no GPU here")
print(torch.cuda.device_count() if cuda else 1, torch.cuda.get_device_name(0) if cuda else "cpu",
      sep="\n", file=open(sys.argv[1], "w"))
from asymtalker.models.taehv import PreviewDecoder
torch.save(PreviewDecoder().state_dict(), sys.argv[2])' "$temporary/device" "$preview"
[ -f "$temporary/device" ] || { echo "gpu.sh: ${lost[*]}" >&2; exit 2; }
{ read -r gpus && read -r name; } <"$temporary/device"
[ "$device" = cuda ] || gpus=${GPUS:-1}
label=$(tr -cs 'a-z0-9\n' - <<<"${name,,}")-$(date +%F)

# RECIPE SIZE: of the GPUs there are, the most that divide the attention heads and the tokens of a latent frame
most_gpus() {
    "$PYTHON" - "$1" "$2" "$gpus" <<'END'
import logging
import math
import sys

logging.disable()  # what libraries say while they are imported
from accelerate import init_empty_weights
from asymtalker.codec import latent_size
from asymtalker.media.portrait import parse_size
from asymtalker.recipes import RECIPES
from asymtalker.sizing.costs import recipe_codec

recipe, gpus = RECIPES[sys.argv[1]](), int(sys.argv[3])
model = recipe.teacher.model
with init_empty_weights():
    spatial = recipe_codec(recipe).config.scale_factor_spatial
cells = math.prod(latent_size(parse_size(sys.argv[2]), spatial, model.patch_size))
shared = math.gcd(model.num_attention_heads, cells // math.prod(model.patch_size))
print(max(count for count in range(1, gpus + 1) if shared % count == 0))
END
}

part_first() {
    generation 140 "$large" -compile --compile
    run 45 "tests on the GPU" "$PYTHON" -m pytest -m "gpu and not slow" -p no:cacheprovider tests/*/test_*gpu.py
    [ "$small" = "$large" ] || generation 110 "$small" -compile --compile
}

part_second() {
    step 60 "$small" train "" --steps 2
    step 75 "$small" distill "" --steps 1
    generation 65 "$large" -compile-fp8 --compile --fp8
    case $recipe in wan_*)  # the preview decoder is for its latents
        generation 65 "$large" -compile-preview --compile --preview "$preview" ;;
    esac
    generation 60 "$large" "-compile-$attention" --compile --attention "$attention"
    step 120 "$large" train "" --steps 1
    yardstick 120 "$large" ""
}

part_rest() {
    local size most
    run 600 "slow tests on the GPU" "$PYTHON" -m pytest -m "gpu and slow" -p no:cacheprovider tests/*/test_*gpu.py
    for size in "${sizes[@]}"; do yardstick 900 "$size" -compile-stock --compile; done
    yardstick 900 "$large" -offload-model --offload model
    generation 900 "$large" -compile-offload-model --compile --offload model
    generation 900 "$large" -offload-group --offload group
    generation 900 "$large" -vae-tiling --vae-tiling
    step 900 "$large" distill ""
    step 900 "$large" train -no-checkpointing --batch 1 --gradient-checkpointing False
    [ "$gpus" -eq 1 ] || for verb in train distill; do step 900 "$large" "$verb" "-gpus$gpus" --gpus "$gpus"; done
    for recipe in "$recipe" ${OTHERS-wan_14b}; do
        [ "$recipe" = "${RECIPE:-wan_1_3b}" ] || generation 900 "$large" -compile --compile
        most=$(most_gpus "$recipe" "$large" 2>>"$log") || most=1
        [ "$most" -eq 1 ] || generation 900 "$large" "-compile-gpus$most" --compile --gpus "$most"
    done
}

large=${sizes[0]}
small=${sizes[-1]}
if [ "$device" = cuda ]; then attention=_native_cudnn; else attention=native; fi
"part_$part"
[ ${#made[@]} -eq 0 ] || timeout --kill-after=1 5 "$PYTHON" benchmarks/speeds.py "${made[@]}"
echo "gpu.sh: $part took $SECONDS s" >&2
if [ ${#lost[@]} -gt 0 ]; then
    printf 'gpu.sh: not measured: %s\n' "${lost[@]}" >&2
    exit 1
fi
