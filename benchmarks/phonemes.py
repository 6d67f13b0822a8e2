"""How often the speech encoder names the right phoneme, per 20 ms, for voices it was not trained on.

python benchmarks/phonemes.py RUN [--speech FOLDER] [--aligned FOLDER] [--clips N]

RUN is the folder of a training of the audio part; --speech what ``runs/speech.py`` made (its held-out speakers are
heard); --aligned a folder of sound files with pocketsphinx's ``NAME.phone.json`` beside them; N sentences are spoken
by held-out synthetic voices in each language, plain and through rooms, noise and bad lines. Last, the milliseconds of
one core that a second of sound takes, in blocks as generation hears it.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from asymtalker.media.sound import read_audio
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES, load_audio_encoder
from asymtalker.parts.audio import HEAD, STEP, output_phonemes
from asymtalker.synth.acoustics import augment
from asymtalker.synth.phonemes import PHONEMES, SILENCE
from asymtalker.synth.recordings import Recording, read_index
from asymtalker.synth.speech import random_text, random_voice, synthesize
from asymtalker.synth.text import SENTENCES
from asymtalker.timeline import SAMPLE_RATE

BLOCK, CONTEXT = 2 * BLOCK_FRAMES, 2 * CONTEXT_FRAMES  # outputs


class Namer:
    """An encoder with the layer that names phonemes."""

    def __init__(self, run: Path):
        self.encoder = load_audio_encoder(run / "audio_encoder").eval().requires_grad_(False)
        head = load_file(run / "phonemes" / HEAD)
        self.weight, self.bias = head["weight"], head["bias"]

    def outputs(self, samples: np.ndarray) -> Tensor:
        """``(N, A)``, heard in blocks as generation does."""
        count = len(samples) // STEP
        padded = np.pad(samples, (CONTEXT * STEP, (CONTEXT + BLOCK) * STEP)).astype(np.float32)
        pieces = []
        for first in range(0, count, BLOCK):
            piece = torch.from_numpy(padded[first * STEP : (first + BLOCK + 2 * CONTEXT) * STEP])[None]
            pieces.append(self.encoder(piece).last_hidden_state[0, CONTEXT : CONTEXT + BLOCK])
        return torch.cat(pieces)[:count]

    def score(self, samples: np.ndarray, phonemes: list[tuple[str, float, float]]) -> np.ndarray:
        """Right outputs, all outputs, right ones that are not silence, all that are not."""
        found = (self.outputs(samples) @ self.weight.T + self.bias).argmax(-1).numpy()
        wanted = output_phonemes(phonemes, len(found))
        right, sounding = found == wanted, wanted != PHONEMES.index(SILENCE)
        return np.array([right.sum(), len(right), (right & sounding).sum(), sounding.sum()])


def aligned_by_machine(folder: Path):
    """Names, samples and phonemes of a folder's sound files with ``.phone.json``."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
    from speech import stressed

    for path in sorted(folder.glob("*.phone.json")):
        phonemes = []
        for word in json.loads(path.read_text())["w"]:
            phones = word["w"]
            silent = phones[0]["t"] in ("SIL", "+NSN+", "+SPN+")
            names = [SILENCE] if silent else stressed(word["t"].split("(")[0], [phone["t"] for phone in phones])
            phonemes += [(name, p["b"], p["b"] + p["d"]) for name, p in zip(names, phones, strict=True)]
        yield read_audio(path.with_name(path.name.removesuffix(".phone.json") + ".wav")), phonemes


def milliseconds(namer: Namer) -> float:
    """Of processor time for a second of sound."""
    torch.set_num_threads(1)
    block = torch.randn(1, (BLOCK + 2 * CONTEXT) * STEP, generator=torch.manual_seed(0)) / 10
    taken = []
    for _ in range(8):
        began = time.process_time()
        namer.encoder(block)
        taken.append(time.process_time() - began)
    return 1000 * min(taken) / (BLOCK * STEP / SAMPLE_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--aligned", type=Path)
    parser.add_argument("--clips", type=int, default=4)
    settings = parser.parse_args()
    namer = Namer(settings.run)
    scores: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
    if settings.speech:
        for row in read_index(settings.speech):
            if row["split"] == "test":
                recording = Recording.load(settings.speech / row["file"])
                scores[f"{row['speaker'].split('-')[0]}, held out"] += namer.score(
                    recording.samples, recording.phonemes
                )
    if settings.aligned:
        for samples, phonemes in aligned_by_machine(settings.aligned):
            scores[settings.aligned.name] += namer.score(samples, phonemes)
    rng = np.random.default_rng(0)
    for language in SENTENCES:
        for _ in range(settings.clips):
            voice = replace(random_voice(rng, "test"), language=language)
            spoken = synthesize(random_text(rng, language), voice)
            scores[f"{language}, synthetic"] += namer.score(spoken.samples, spoken.phonemes)
            scores["all synthetic, disturbed"] += namer.score(augment(spoken.samples, rng), spoken.phonemes)
    for name, (right, total, sounding, all_sounding) in scores.items():
        print(f"{name}: {right / total:.1%} of {total / 50:.0f} s, {sounding / all_sounding:.1%} outside silence")
    print(f"{milliseconds(namer):.1f} ms of one core for a second of sound")


if __name__ == "__main__":
    main()
