#!/usr/bin/env bash
# Every stage once, in some ten minutes, on a CPU: proves the chain, not the picture. Results: runs/out/smoke/smoke.mp4, report/
set -euo pipefail
out=${1:-runs/out/smoke}

asymtalker synth --out "$out/corpus" --clips 4 --seconds 4 --shard-clips 2
asymtalker train --recipe smoke --part codec --corpus "$out/corpus" --run "$out/codec"
asymtalker train --recipe smoke --part audio --run "$out/audio"
mkdir -p "$out/parts"
cp -r "$out/codec/vae" "$out/audio/audio_encoder" "$out/audio/feature_extractor" "$out/parts/"
asymtalker train --recipe smoke --part teacher --corpus "$out/corpus" --model "$out/parts" --run "$out/teacher"
asymtalker assemble --recipe smoke --vae "$out/codec/vae" --audio "$out/audio" \
    --transformer "$out/teacher/transformer" --dtype float32 --out "$out/teacher-model"
asymtalker distill --recipe smoke --corpus "$out/corpus" --model "$out/teacher-model" --run "$out/student"
asymtalker assemble --recipe smoke --vae "$out/codec/vae" --audio "$out/audio" \
    --transformer "$out/student/transformer" --name asymtalker-smoke --out "$out/student-model"
asymtalker synth --split test --out "$out/test" --clips 2 --seconds 4 --shard-clips 1
asymtalker evaluate --model "$out/student-model" --reference "$out/test" --seconds 1,2,4 --offline \
    --out "$out/report"
asymtalker generate --model "$out/student-model" --image src/asymtalker/assets/demo/portrait.png \
    --audio src/asymtalker/assets/demo/speech.wav --output "$out/smoke.mp4"
