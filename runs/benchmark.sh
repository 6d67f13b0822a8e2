#!/usr/bin/env bash
# Makes the synthetic test sets, benchmark/short (100 clips of 10 s) and benchmark/long (10 of 600 s), of heads,
# portraits and voices that training never sees: benchmark.sh PORTRAITS [OUT]
# PORTRAITS is the folder that the training corpus was made from, or cc0 for the registered CC0 set: which of them are
# held out follows from their bytes alone. Clip k of both sets has the same head and voice, so that what length does
# shows. Needs asymtalker[synth]. Both commands resume when this script is run again.
set -euo pipefail
portraits=${1:?give a folder of portraits, or cc0}
out=${2:-runs/out/benchmark}

held_out() {
    asymtalker synth --split test --out "$out/$1" --clips "$2" --seconds "$3" --shard-clips "$4" --seed 1 \
        --portraits "$portraits"
}

held_out short 100 10 4
held_out long 10 600 1
