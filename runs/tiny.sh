#!/usr/bin/env bash
# Makes the bundled model, src/asymtalker/assets/tiny, from nothing:
# tiny.sh PORTRAITS SPEECH WHISPER [OUT]
# PORTRAITS is a folder of portraits, or cc0 for the registered CC0 set; SPEECH what runs/speech.py made of recordings
# of real people, WHISPER the folder of Whisper tiny.en that it used.
# Needs asymtalker[synth,train,voices]. Every command resumes when this script is run again. docs/log.md says what each
# run took and gave.
set -euo pipefail
portraits=${1:?give a folder of portraits, or cc0}
speech=${2:?give a folder that runs/speech.py made}
whisper=${3:?give the folder of Whisper tiny.en}
out=${4:-runs/out/tiny}

corpus() {
    asymtalker synth --out "$1" --clips "$2" --head-motion "$3" --photo-fraction 0.85 --portraits "$portraits" "${@:4}"
}
teacher() {
    asymtalker train --part teacher --model "$out/parts" --run "$out/$1" --corpus "$out/$2" "${@:3}"
}

corpus "$out/corpus" 400 0.1 --seconds 9.6 --pico-share 0.2 --seed 6
corpus "$out/still" 128 0 --seconds 6.4 --pico-share 0.2 --seed 6
asymtalker train --part codec --corpus "$out/corpus" --portraits "$portraits" --run "$out/codec"
asymtalker train --part audio --config.pico-share 0.2 --speech "$speech" --whisper "$whisper" --run "$out/audio"
mkdir -p "$out/parts"
cp -r "$out/codec/vae" "$out/audio/audio_encoder" "$out/audio/feature_extractor" "$out/parts/"
# Lips first: small windows at the mouth, mostly at noise levels where only the sound says what lips do.
teacher lips corpus --config.own-reference 0 --config.crop 8 --config.mouth-share 0.9 --config.whole-share 0.05 \
    --config.shift 20 --config.optimizer.lr 1e-3 --config.loop.batch 16 --config.loop.steps 2000 \
    --config.pixel-every 2000
# Then the picture, and last heads that keep still, seen from the portrait on: what is left to learn are lips and lids.
teacher picture corpus --config.init "$out/lips" --config.own-reference 0 --config.shift 8 --config.loop.steps 1500
teacher teacher still --config.init "$out/picture"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/teacher/transformer" \
    --dtype float32 --out "$out/teacher-model"
asymtalker distill --corpus "$out/corpus" --model "$out/teacher-model" --run "$out/student"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/student/transformer" \
    --out src/asymtalker/assets/tiny
