#!/usr/bin/env bash
# Makes the bundled model, src/asymtalker/assets/tiny, from nothing: tiny.sh PORTRAITS [OUT]
# PORTRAITS is a folder of portraits with landmarks478.npz in it or beside it, or cc0 for the registered CC0 set.
# Needs asymtalker[synth,train,voices]. Every command resumes when this script is run again. docs/log.md says what each
# run took and gave.
set -euo pipefail
portraits=${1:?give a folder of portraits, or cc0}
out=${2:-runs/out/tiny}

pictures=()
[ -d "$portraits" ] && pictures=(--portraits "$portraits")

asymtalker synth --out "$out/corpus" --clips 400 --seconds 6.4 --photo-fraction 0.85 --head-motion 0.1 \
    --pico-share 0.2 --seed 6 --portraits "$portraits"
asymtalker train --part codec --corpus "$out/corpus" ${pictures[@]+"${pictures[@]}"} --run "$out/codec"
asymtalker train --part audio --config.pico-share 0.4 --run "$out/audio"
asymtalker train --part readout --corpus "$out/corpus" --run "$out/readout"
mkdir -p "$out/parts"
cp -r "$out/codec/vae" "$out/audio/audio_encoder" "$out/audio/feature_extractor" "$out/parts/"
# Lips first: small windows at the mouth, mostly at noise levels where only the sound says what lips do.
asymtalker train --part teacher --corpus "$out/corpus" --model "$out/parts" --run "$out/lips" \
    --config.crop 8 --config.mouth-share 0.9 --config.whole-share 0.05 --config.shift 20 --config.optimizer.lr 1e-3 \
    --config.loop.batch 16 --config.loop.steps 2000 --config.pixel-every 2000
asymtalker train --part teacher --corpus "$out/corpus" --model "$out/parts" --run "$out/teacher" \
    --config.init "$out/lips"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/teacher/transformer" \
    --dtype float32 --out "$out/teacher-model"
asymtalker distill --corpus "$out/corpus" --model "$out/teacher-model" --run "$out/student"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/student/transformer" \
    --renew-noise True --out src/asymtalker/assets/tiny
