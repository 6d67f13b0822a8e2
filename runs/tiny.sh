#!/usr/bin/env bash
# Makes the bundled model, src/asymtalker/assets/tiny, from nothing:
# tiny.sh PORTRAITS CLIPS SPEECH WHISPER [OUT] [LATE] [LICENCE]
# PORTRAITS is a folder of portraits, or cc0 for the registered CC0 set; CLIPS a folder of videos of people who speak,
# with an index.tsv that says who; SPEECH what runs/speech.py made of recordings of real people, WHISPER the folder of
# Whisper tiny.en that it used. LATE is by how many seconds the sound of CLIPS comes too late, LICENCE what they are
# under (the bundled model's: 0.04, cc-by-4.0).
# Needs asymtalker[synth,curate,train,voices]. Every command resumes when this script is run again. docs/log.md says what each
# run took and gave.
set -euo pipefail
portraits=${1:?give a folder of portraits, or cc0}
clips=${2:?give a folder of videos}
speech=${3:?give a folder that runs/speech.py made}
whisper=${4:?give the folder of Whisper tiny.en}
out=${5:-runs/out/tiny}
late=${6:-0.04}
licence=${7:-cc-by-4.0}

step() {  # says what a step took
    local began=$SECONDS
    "$@"
    echo "$((SECONDS - began)) s: ${*:2:3}"
}

grep -m 1 "model name" /proc/cpuinfo 2>/dev/null || true
step asymtalker synth --out "$out/corpus" --clips 240 --seconds 9.6 --size 256 --head-motion 1 --photo-fraction 0.85 \
    --portraits "$portraits" --pico-share 0.2 --seed 6
step asymtalker curate --input "$clips" --output "$out/corpus" --sound-late "$late" --licence "$licence"
step asymtalker train --part codec --corpus "$out/corpus" --run "$out/codec"
step asymtalker train --part audio --config.pico-share 0.2 --speech "$speech" --whisper "$whisper" --run "$out/audio"
mkdir -p "$out/parts"
cp -r "$out/codec/vae" "$out/audio/audio_encoder" "$out/audio/feature_extractor" "$out/parts/"
step asymtalker revoice --corpus "$out/corpus" --output "$out/corpus" --model "$out/parts" --speech "$speech" --clips 1200 \
    --pico-share 0.2
step asymtalker train --part teacher --model "$out/parts" --run "$out/teacher" --corpus "$out/corpus"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/teacher/transformer" \
    --dtype float32 --out "$out/teacher-model"
# Long clips for distillation; a teacher that saw them too would let heads grow, as they are made of several clips each. On the
# corpus itself, whose heads move farther, students jump from chunk to chunk (docs/log.md).
step asymtalker reenact --corpus "$out/corpus" --portraits "$portraits" --model "$out/parts" --output "$out/reenacted"
step asymtalker distill --corpus "$out/reenacted" --model "$out/teacher-model" --run "$out/student"
asymtalker assemble --vae "$out/codec/vae" --audio "$out/audio" --transformer "$out/student/transformer" \
    --size 512 --dtype float16 --out src/asymtalker/assets/tiny
