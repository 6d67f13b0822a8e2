#!/usr/bin/env bash
# Tables 1 to 4 and figures 5 and 6 of the paper, for the tiny model: tables.sh BENCHMARK [OUT] [NAME=FOLDER ...]
# Result: OUT/tables.md, OUT/figure5.svg, OUT/figure6.svg; what was measured: OUT/short and OUT/long, index.html.
# BENCHMARK is the folder that runs/benchmark.sh made, with the test sets short and long. NAME=FOLDER adds another
# system to table 1: FOLDER holds its videos of short (asymtalker baseline), and FOLDER/long, for figure 5, those of long.
# Every command resumes when this script is run again. Needs asymtalker[train,evaluate].
#
# Settings, as environment variables; give a second run the same ones:
#   RECIPE         tiny, or smoke to see the chain hold
#   PARTS, CORPUS  codec and audio encoder, and clips to train on; by default those of runs/$RECIPE.sh
#   STUDENT_CORPUS clips to distil on, of some chunks each; by default runs/$RECIPE.sh's reenacted ones, else CORPUS
#   CLIP_ENCODER   folder of a CLIP model (openai/clip-vit-large-patch14) for the rows that need it
#   VTP_ENCODER    Open-MAGVIT2's imagenet_256_L.ckpt, or a folder of MagvitTokenizer, for the rows that need it
#   TEACHER_FLAGS, STUDENT_FLAGS  of every asymtalker train and every asymtalker distill, split at spaces
#   EVALUATE_FLAGS of every asymtalker evaluate, such as --offline
#   SAMPLE_STEPS, GUIDANCE  with which a teacher itself is sampled
#   LONG           variants of figure 5, such as "tre tre-gen-gen tre-teacher"
#   MOMENTS        seconds at which figure 5 is read
#   BENCH_SECONDS  length of the sound of figure 6
set -euo pipefail
benchmark=${1:?give the folder that runs/benchmark.sh made}
recipe=${RECIPE:-tiny}
out=${2:-runs/out/tables-$recipe}
others=("${@:3}")
made=runs/out/$recipe
parts=${PARTS:-$made/parts}
corpus=${CORPUS:-$made/corpus}
[ -e "$made/reenacted" ] && long_clips=$made/reenacted || long_clips=$corpus
student_corpus=${STUDENT_CORPUS:-$long_clips}
teacher_flags=${TEACHER_FLAGS:-}
student_flags=${STUDENT_FLAGS:-}
evaluate_flags=${EVALUATE_FLAGS:-}
sample_steps=${SAMPLE_STEPS:-10}
guidance=${GUIDANCE:-1.2} # what the student is distilled towards (recipes.py)
moments=${MOMENTS:-5,10,30,60,120,300,600}
bench_seconds=${BENCH_SECONDS:-30}
clip_encoder=${CLIP_ENCODER:-}
vtp_encoder=${VTP_ENCODER:-}
about=

if [ "$recipe" = smoke ]; then
    evaluate_flags=${EVALUATE_FLAGS:---offline}
    sample_steps=${SAMPLE_STEPS:-2}
    moments=${MOMENTS:-1,2,4,8}
    bench_seconds=${BENCH_SECONDS:-3}
fi

there() {
    [ -e "$2" ] || {
        echo "tables.sh: there is no $2: $1" >&2
        exit 2
    }
}

# Image encoders with random weights, of the formats of the real ones: they prove the path and nothing else.
random_encoders() {
    [ -e "$1/vtp" ] || python - "$1" <<'PY'
import sys

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from asymtalker.models.magvit import MagvitTokenizer

torch.manual_seed(0)
small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
CLIPVisionModel(CLIPVisionConfig(**small, image_size=64, patch_size=16)).save_pretrained(f"{sys.argv[1]}/clip")
tokenizer = MagvitTokenizer(
    base_channels=32, channel_multipliers=(1, 1, 2), num_res_blocks=1, codebook_bits=8, sample_size=64
)
tokenizer.save_pretrained(f"{sys.argv[1]}/vtp")
PY
}

# teacher STRATEGY [ENCODER]: trained from random weights on real continuity; the checkpoint is also what is sampled.
teacher() {
    local run=$out/runs/$1-teacher model=$out/models/$1-teacher parts_of=$out/parts/$1 flags=
    # what is predicted can't be a change of the portrait's latents where there are none
    case $1 in clip | vtp) flags="--config.model.prediction-type velocity" ;; esac
    mkdir -p "$parts_of"
    for part in vae audio_encoder feature_extractor; do
        ln -sfn "$(realpath "$parts/$part")" "$parts_of/$part"
    done
    [ -z "${2:-}" ] || ln -sfn "$(realpath "$2")" "$parts_of/image_encoder"
    asymtalker train --recipe "$recipe" --part teacher --corpus "$corpus" --model "$parts_of" --run "$run" \
        --config.model.identity "$1" $flags $teacher_flags
    assemble "$1" "$run" "$model" "${2:-}" --dtype float32 --steps "$sample_steps" --guidance "$guidance"
}

# student NAME STRATEGY ENCODER [FLAG ...]: distilled from the strategy's teacher.
student() {
    asymtalker distill --recipe "$recipe" --corpus "$student_corpus" --model "$out/models/$2-teacher" --run "$out/runs/$1" \
        $student_flags "${@:4}"
    assemble "$2" "$out/runs/$1" "$out/models/$1" "$3"
}

# assemble STRATEGY RUN MODEL ENCODER [FLAG ...]: named after its folder, so that videos and measurements are too.
assemble() {
    asymtalker assemble --recipe "$recipe" --vae "$parts/vae" --audio "$parts" --transformer "$2/transformer" \
        --identity "$1" ${4:+--image-encoder "$4"} --name "$(basename "$3")" --out "$3" "${@:5}"
}

# measure SET NAME ...: one folder for all variants, so that the real clips are measured once; what each evaluate
# measured is kept there, and the last one, over all of them and the other systems, measures only what is new.
measure() {
    local set=$1 compared=()
    for name in "${@:2}"; do
        asymtalker evaluate --model "$out/models/$name" --reference "$benchmark/$set" --seconds "$moments" \
            --out "$out/$set" $evaluate_flags
        compared+=("$name=$out/$set/videos/$name")
    done
    for other in ${others[@]+"${others[@]}"}; do
        if [ "$set" = short ]; then
            compared+=("$other")
        elif [ -d "${other#*=}/$set" ]; then
            compared+=("$other/$set")
        fi
    done
    asymtalker evaluate --compare "${compared[@]}" --reference "$benchmark/$set" --seconds "$moments" \
        --out "$out/$set" $evaluate_flags
}

there "run runs/benchmark.sh first, or give another folder" "$benchmark/short"
there "run runs/benchmark.sh first, or give another folder" "$benchmark/long"
there "run runs/$recipe.sh first, or give its folder as PARTS" "$parts/vae"
there "run runs/$recipe.sh first, or give its folder as CORPUS" "$corpus"
[ -z "$clip_encoder" ] || there "CLIP_ENCODER is to be the folder of a CLIP model" "$clip_encoder"
[ -z "$vtp_encoder" ] || there "VTP_ENCODER is to be an Open-MAGVIT2 tokenizer" "$vtp_encoder"
for other in ${others[@]+"${others[@]}"}; do
    there "give other systems as NAME=FOLDER" "${other#*=}"
done
if [ "$recipe" = smoke ] && [ -z "$clip_encoder$vtp_encoder" ]; then
    random_encoders "$out/random"
    clip_encoder=$out/random/clip vtp_encoder=$out/random/vtp about=--random-encoders
fi

# The paper does not say what stands in for a module that is off in table 2. TRE off: the CLIP strategy, because its
# row "AKD only" has the very numbers of table 3's CLIP. AKD off: no distillation, the teacher itself is sampled, because
# what its text calls the plain baseline has the numbers of neither symmetric distillation in table 4.
variants=(tre-teacher tre etr tre-gt-gt tre-gen-gen)
teacher tre
student tre tre ""
teacher etr
student etr etr ""
# Table 4, what the recipes tiny_gt_gt and tiny_gen_gen set.
student tre-gt-gt tre "" --config.student-continuity ground_truth
student tre-gen-gen tre "" --config.teacher-continuity generated
if [ -n "$clip_encoder" ]; then
    teacher clip "$clip_encoder"
    student clip clip "$clip_encoder"
    variants+=(clip-teacher clip)
fi
if [ -n "$vtp_encoder" ]; then
    teacher vtp "$vtp_encoder"
    student vtp vtp "$vtp_encoder"
    variants+=(vtp)
fi
measure short "${variants[@]}"
measure long ${LONG:-tre}
for name in tre tre-teacher; do
    # Speed is worth nothing beside other work; remove the file to measure it again
    [ -e "$out/speed/$name.json" ] || asymtalker bench generate --model "$out/models/$name" \
        --seconds "$bench_seconds" --out "$out/speed/$name.json"
done
python "$(dirname "$0")/../benchmarks/tables.py" "$out" $about
