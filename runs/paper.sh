#!/usr/bin/env bash
# The paper's two trainings at Wan2.1-1.3B, from its published weights: paper.sh CORPUS [OUT]
# CORPUS is a corpus folder of real video. WAN and WAV2VEC, folders or hub ids, are what to start from; GPUS is how many
# GPUs of this machine share each step (1, 2, 4, 8 or 16: they must divide the recipe's micro-batches). CORPUS has to be
# of the form of docs/architecture.md; TRAIN are flags of both trainings, such as "--config.loop.micro-batches 4" for one
# GPU, or "--config.loop.device cpu" to try it on a small one.
set -euo pipefail
corpus=${1:?give a corpus folder}
out=${2:-runs/out/paper}
wan=${WAN:-Wan-AI/Wan2.1-T2V-1.3B-Diffusers}
wav2vec=${WAV2VEC:-facebook/wav2vec2-base-960h}
model=$out/init
gpus=${GPUS:-1}
read -ra train <<<"${TRAIN:-}"
many=(asymtalker)
if ((gpus > 1)); then many=(torchrun --nproc-per-node "$gpus" -m -- asymtalker); fi

if [ ! -e "$model/model_index.json" ]; then
    asymtalker convert --recipe wan_1_3b --wan "$wan" --wav2vec "$wav2vec" --dtype float32 --out "$model"
fi
"${many[@]}" train --recipe wan_1_3b --part teacher --corpus "$corpus" --model "$model" --config.init "$model" \
    "${train[@]}" --run "$out/teacher"
asymtalker assemble --recipe wan_1_3b --vae "$model/vae" --audio "$model" --transformer "$out/teacher/transformer" \
    --name asymtalker-1.3b-teacher --size 512 --dtype float32 --out "$out/teacher-model"
"${many[@]}" distill --recipe wan_1_3b --corpus "$corpus" --model "$out/teacher-model" \
    "${train[@]}" --run "$out/student"
asymtalker assemble --recipe wan_1_3b --vae "$model/vae" --audio "$model" --transformer "$out/student/transformer" \
    --name asymtalker-1.3b --size 512 --out "$out/student-model"
