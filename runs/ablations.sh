#!/usr/bin/env bash
# What choices of the method do to the bundled model: ablations.sh TEACHER CORPUS CLIPS OUT SPEECH...
# TEACHER is a checkpoint of the recipe tiny (asymtalker assemble) to distil from, CORPUS clips of some chunks in a row,
# CLIPS a folder of real videos with sound of people never trained on, SPEECH recordings. Result: OUT/ablations.json.
# Variants teacherN are the teacher itself in N steps: no distillation. ETR is no variant: of a codec of motion a portrait
# repeated and encoded is its one encoded frame repeated. Nor is CLIP, whose network would have to be here.
# Every command resumes when this script is run again, and what is there is not done again. Needs
# asymtalker[train,evaluate].
#
# Settings, as environment variables; give a second run the same ones:
#   SEEDS    of the trainings (0 1 2)
#   STEPS    of each distillation (125); TEACHER_STEPS of a teacher with a window of continuity of its own (200)
#   TEACHER_CORPUS  that such a teacher is trained on (CORPUS)
#   GUIDANCE  with which the teacher itself is sampled (1.2, what students are distilled towards)
#   SECONDS_LONG  of the long videos (600)
#   VARIANTS which (all)
set -euo pipefail
teacher=${1:?give a teacher} corpus=${2:?give a corpus} clips=${3:?give a folder of real clips} out=${4:?give a folder}
speech=("${@:5}")
seeds=${SEEDS:-0 1 2}
steps=${STEPS:-125}
teacher_steps=${TEACHER_STEPS:-200}
teacher_corpus=${TEACHER_CORPUS:-$corpus}
guidance=${GUIDANCE:-1.2}
seconds=${SECONDS_LONG:-600}
variants=${VARIANTS:-teacher4 teacher8 teacher25 gt-gen gt-gt gen-gen k1 k5 k9 k13 steps1 steps2 steps8 anchor0 anchor1}
mkdir -p "$out"

# assembled NAME FOLDER [FLAG ...]: a checkpoint of a folder's transformer beside the teacher's other parts.
assembled() {
    [ -e "$out/models/$1/model_index.json" ] || asymtalker assemble --recipe tiny --vae "$teacher/vae" --audio "$teacher" \
        --transformer "$2/transformer" --dtype float32 --out "$out/models/$1" "${@:3}"
}

# measured NAME=MODEL,... ...
measured() {
    python "$(dirname "$0")/../benchmarks/ablations.py" --clips "$clips" --speech "${speech[@]}" --seconds "$seconds" \
        --out "$out/ablations.json" "$@"
}

# fitted NAME FLAG ...: the teacher trained on with another window of continuity.
fitted() {
    asymtalker train --part teacher --recipe tiny --corpus "$teacher_corpus" --model "$teacher" --run "$out/runs/$1" \
        --config.init "$teacher" --config.loop.steps "$teacher_steps" --config.loop.sample-every 0 "${@:2}"
}

# student NAME TEACHER SEED [FLAG ...]
student() {
    asymtalker distill --recipe tiny --corpus "$corpus" --model "$2" --run "$out/runs/$1-$3" --config.loop.seed "$3" \
        --config.loop.steps "$steps" --config.loop.sample-every 0 "${@:4}"
}

for variant in $variants; do
    of=$teacher distilled=() trained=()
    case $variant in
        teacher*)
            assembled "$variant" "$teacher" --steps "${variant#teacher}" --guidance "$guidance"
            measured "$variant=$out/models/$variant"
            continue
            ;;
        gt-gen) ;;
        gt-gt) distilled=(--config.student-continuity ground_truth) ;;
        gen-gen) distilled=(--config.teacher-continuity generated) ;;
        k*) trained=(--config.chunk.continuity-frames "${variant#k}") distilled=("${trained[@]}") ;;
        steps*) distilled=(--config.steps-per-sample "${variant#steps}") ;;
        anchor*) distilled=(--config.anchor-weight "${variant#anchor}") ;;
        *)
            echo "ablations.sh: there is no variant $variant" >&2
            exit 2
            ;;
    esac
    if [ ${#trained[@]} -gt 0 ]; then
        fitted "$variant-teacher" "${trained[@]}"
        assembled "$variant-teacher" "$out/runs/$variant-teacher"
        of=$out/models/$variant-teacher
    fi
    of_seeds=
    for seed in $seeds; do
        student "$variant" "$of" "$seed" ${distilled[@]+"${distilled[@]}"}
        assembled "$variant-$seed" "$out/runs/$variant-$seed"
        of_seeds+=,$out/models/$variant-$seed
    done
    measured "$variant=${of_seeds#,}"
    [ "$variant" != gt-gen ] || measured "reuse=$(echo "${of_seeds#,}" | sed 's/,/+reuse,/g')+reuse"
done
