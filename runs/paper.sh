#!/usr/bin/env bash
# The paper's two trainings at Wan2.1-1.3B: paper.sh CORPUS MODEL [OUT]
# CORPUS is a corpus folder of real video; MODEL a checkpoint folder with Wan2.1's vae/ and a published wav2vec2 in
# audio_encoder/ and feature_extractor/. Needs a GPU.
set -euo pipefail
corpus=${1:?give a corpus folder}
model=${2:?give a checkpoint folder}
out=${3:-runs/out/paper}

asymtalker train --recipe wan_1_3b --part teacher --corpus "$corpus" --model "$model" --run "$out/teacher"
asymtalker assemble --recipe wan_1_3b --vae "$model/vae" --audio "$model" --transformer "$out/teacher/transformer" \
    --name asymtalker-1.3b-teacher --size 512 --dtype float32 --out "$out/teacher-model"
asymtalker distill --recipe wan_1_3b --corpus "$corpus" --model "$out/teacher-model" --run "$out/student"
asymtalker assemble --recipe wan_1_3b --vae "$model/vae" --audio "$model" --transformer "$out/student/transformer" \
    --name asymtalker-1.3b --size 512 --out "$out/student-model"
