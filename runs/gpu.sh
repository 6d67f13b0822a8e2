#!/usr/bin/env bash
# Tests and measures everything that needs a GPU, in an estimated hour on one H200, and writes a table: gpu.sh [OUT]
# Each measurement is a JSON file in OUT (benchmarks/results), named by device and date; benchmarks/README.md says what
# its figures are. A measurement that fails stops nothing and is named at the end.
#
# In parts, for a machine that is there for a while only: RECIPES and SIZES limit it, the training and the options that
# are measured at one size going with the first of each, such as
#   TESTS=no RECIPES=wan_1_3b SIZES=256x256 runs/gpu.sh;  python benchmarks/speeds.py FILE... makes one table of them all.
#
#   RECIPES  recipes to measure ("wan_1_3b wan_14b"); all variants are of the first, of the others plain generation
#   SIZES    heights and widths ("512x512 256x256"); the others are measured at the first
#   ATTENTION  kernels by diffusers' names to measure besides PyTorch's choice ("_native_cudnn"); flash, _flash_3 and
#            sage need their packages
#   SOUND    seconds of sound, separated by commas ("12.36", four whole chunks)
#   DEVICE   "cuda"; "cpu" tries the script out: RECIPES=smoke SIZES=64x64 SOUND=3 DEVICE=cpu runs/gpu.sh /tmp/tried
#   TESTS    "yes"; "no" leaves the tests on the GPU out
#   GPUS     processes to share the work on a CPU (1); of GPUs, all train, and as many generate as share out the heads
#            and tokens of a recipe evenly
set -uo pipefail
out=${1:-benchmarks/results}
read -ra recipes <<<"${RECIPES:-wan_1_3b wan_14b}"
read -ra sizes <<<"${SIZES:-512x512 256x256}"
sound=${SOUND:-12.36}
device=${DEVICE:-cuda}
if [ "$device" = cuda ]; then attentions=_native_cudnn; else attentions=native; fi
read -ra attentions <<<"${ATTENTION:-$attentions}"
first=${recipes[0]}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

if [ "$device" = cuda ]; then
    gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
    [ "${gpus:-0}" -gt 0 ] || { echo "gpu.sh: no GPU here" >&2; exit 2; }
    name=$(python -c 'import torch; print(torch.cuda.get_device_name(0))')
else
    name=$device
    gpus=${GPUS:-1}
fi
label=$(tr -cs 'a-z0-9\n' - <<<"${name,,}")-$(date +%F)
mkdir -p "$out"
failed=()
made=()

# NAME VERB OPTIONS...: one measurement; one that takes too long has failed
measure() {
    local file="$out/$1-$label.json" kind=$2
    shift 2
    echo "== $(basename "$file" .json)" >&2
    if timeout 900 asymtalker bench "$kind" --random-weights --device "$device" "$@" --out "$file" >&2; then
        made+=("$file")
    else
        failed+=("$(basename "$file" .json)")
    fi
}

# RECIPE SIZE: of the GPUs there are, the most that divide the attention heads and the tokens of a latent frame
most_gpus() {
    python - "$1" "$2" "$gpus" <<'END'
import logging
import math
import sys

logging.disable()  # what libraries say while they are imported
from accelerate import init_empty_weights
from asymtalker.codec import latent_size
from asymtalker.sizing.costs import recipe_codec
from asymtalker.media.portrait import parse_size
from asymtalker.recipes import RECIPES

recipe, gpus = RECIPES[sys.argv[1]](), int(sys.argv[3])
model = recipe.teacher.model
with init_empty_weights():
    spatial = recipe_codec(recipe).config.scale_factor_spatial
cells = math.prod(latent_size(parse_size(sys.argv[2]), spatial, model.patch_size))
shared = math.gcd(model.num_attention_heads, cells // math.prod(model.patch_size))
print(max(count for count in range(1, gpus + 1) if shared % count == 0))
END
}

# RECIPE SIZE: compiled, on as many GPUs as share it out
measure_gpus() {
    local count
    count=$(most_gpus "$1" "$2") || { failed+=("$1-$2-gpus"); return; }
    [ "$count" -eq 1 ] || measure "$1-$2-compile-gpus$count" generate --recipe "$1" --size "$2" --seconds "$sound" \
        --compile --gpus "$count"
}

if [ "$device" = cuda ] && [ "${TESTS:-yes}" = yes ]; then
    timeout 900 python -m pytest -m gpu tests >&2 || failed+=("the tests on the GPU")
fi
preview=$temporary/preview.pth  # random weights take as long
python -c 'import sys, torch; from asymtalker.models.taehv import PreviewDecoder as P
torch.save(P().state_dict(), sys.argv[1])' "$preview" || failed+=("the preview decoder")

for size in "${sizes[@]}"; do
    plain=(generate --recipe "$first" --size "$size" --seconds "$sound")
    measure "$first-$size" "${plain[@]}"
    measure "$first-$size-compile" "${plain[@]}" --compile
    measure "$first-$size-compile-fp8" "${plain[@]}" --compile --fp8 --no-stock
    case $first in wan_*)  # the preview decoder is for its latents
        measure "$first-$size-compile-preview" "${plain[@]}" --compile --preview "$preview" --no-stock ;;
    esac
    for attention in "${attentions[@]}"; do
        measure "$first-$size-compile-$attention" "${plain[@]}" --compile --attention "$attention"
    done
    for recipe in "${recipes[@]:1}"; do
        measure "$recipe-$size-compile" generate --recipe "$recipe" --size "$size" --seconds "$sound" --compile
    done
    [ "$gpus" -eq 1 ] || for recipe in "${recipes[@]}"; do measure_gpus "$recipe" "$size"; done
done
size=${sizes[0]}
plain=(generate --recipe "$first" --size "$size" --seconds "$sound")
measure "$first-$size-offload-model" "${plain[@]}" --offload model
measure "$first-$size-compile-offload-model" "${plain[@]}" --compile --offload model
measure "$first-$size-offload-group" "${plain[@]}" --offload group
measure "$first-$size-vae-tiling" "${plain[@]}" --vae-tiling
if [ "$gpus" -gt 1 ]; then
    measure "$first-train-$size-gpus$gpus" train --recipe "$first" --size "$size" --gpus "$gpus"
fi
measure "$first-train-$size" train --recipe "$first" --size "$size"
measure "$first-train-$size-no-checkpointing" train --recipe "$first" --size "$size" --batch 1 \
    --gradient-checkpointing False

[ ${#made[@]} -eq 0 ] || python benchmarks/speeds.py "${made[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: these failed, for the reasons above: ${failed[*]}" >&2
    exit 1
fi
