"""Live sessions on this machine: latency from sound in to picture out, whether real time is held, memory over time.

python benchmarks/live.py [--size 512] [--sessions 1] [--seconds 120] [--soak] [--precision auto]
    [--out benchmarks/results/NAME.json]

Each session is told speech as it is spoken, in pieces of 20 ms, with pauses, and its moments are taken when they are
due; nothing is encoded or sent. --soak lasts an hour unless --seconds says otherwise. Latency counts from when the
piece with a frame's first sample was pushed to when the frame was handed out. Memory is what the process holds
(resident), noted every ten seconds; growth is the mean of the last quarter over that of the second.
"""

import argparse
import gc
import json
import threading
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil

import asymtalker
from asymtalker.bench.machine import describe_machine, load_average, peak_rss_mib
from asymtalker.bench.run import report_header
from asymtalker.config import InferenceConfig, Precision
from asymtalker.generate.pipeline import AsymTalkerPipeline, load_pipeline
from asymtalker.media.atomic import write_atomic
from asymtalker.media.sound import read_audio
from asymtalker.serve.session import Portrait, Session
from asymtalker.serve.stage import FullError, Stage
from asymtalker.timeline import FPS, SAMPLE_RATE

DEMO = Path(asymtalker.__file__).parent / "assets" / "demo"
PIECE = SAMPLE_RATE // 50
PAUSE = 3 * SAMPLE_RATE
NOTED_EVERY = 10.0
WARM_UP = 5.0


class Speaker:
    """Somebody who speaks to a session and looks at it, for so many seconds."""

    def __init__(self, session: Session, seconds: float, delay: float):
        self.session, self.seconds, self.delay = session, seconds, delay
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._look, self._speak)]
        for thread in self.threads:
            thread.start()

    def _look(self) -> None:
        for _ in self.session.moments():
            pass

    def _speak(self) -> None:
        speech = np.concatenate([read_audio(DEMO / "speech.wav"), np.zeros(PAUSE, np.float32)])
        speech = speech[: len(speech) // PIECE * PIECE]
        begun = time.monotonic() + self.delay
        for number in range(round((self.seconds - self.delay) * SAMPLE_RATE / PIECE)):
            time.sleep(max(0.0, begun + number * PIECE / SAMPLE_RATE - time.monotonic()))
            at = number * PIECE % len(speech)
            self.session.push(speech[at : at + PIECE])


def measure(pipeline: AsymTalkerPipeline, size: int, sessions: int, seconds: float) -> dict[str, Any]:
    """Figures of so many sessions at once."""
    stage = Stage(pipeline)
    portrait = Portrait(image=DEMO / "portrait.png", crop=True, size=(size, size))
    speeds = [round(stage.rehearse(portrait), 2)]
    try:
        opened, refused = [stage.open(portrait, keeps_up=True)], []
    except FullError as error:
        opened, refused = [Session(pipeline, portrait, stage.live, keeps_up=True)], [str(error)]
    speakers = [Speaker(opened[0], seconds, 1.0)]
    for number in range(1, sessions):
        time.sleep(3)
        try:
            opened.append(stage.open(portrait, keeps_up=True))
        except FullError as error:  # which is said; what would come of it is measured all the same
            refused.append(str(error))
            opened.append(Session(pipeline, portrait, stage.live, keeps_up=True))
        speakers.append(Speaker(opened[-1], seconds - 3 * number, 1.0))
    time.sleep(WARM_UP)
    process = psutil.Process()
    begun, spent, shown = time.monotonic(), time.process_time(), [session.seconds for session in opened]
    before = [session.latency.report() for session in opened]
    memory = []
    while (elapsed := time.monotonic() - begun) < seconds - WARM_UP - 3 * sessions:
        time.sleep(min(NOTED_EVERY, seconds))
        gc.collect()
        memory.append(round(process.memory_info().rss / (1 << 20), 1))
    elapsed, spent = time.monotonic() - begun, time.process_time() - spent
    reports = [session.latency.report() for session in opened]
    made = [session.seconds - first for session, first in zip(opened, shown, strict=True)]
    for session in opened:
        session.close()
    quarter = max(1, len(memory) // 4)
    early, late = memory[quarter : 2 * quarter] or memory, memory[-quarter:]
    return {
        "speed_rehearsed": speeds[0],
        "refused": refused,
        "seconds": round(elapsed, 1),
        "real_time": [round(video / elapsed, 3) for video in made],
        "frames_a_second": [round(FPS * video / elapsed, 2) for video in made],
        "latency_ms": [report.plain() for report in reports],
        "stalls_a_minute": [
            round(60 * (after.stalls - first.stalls) / elapsed, 2)
            for after, first in zip(reports, before, strict=True)
        ],
        "cores_used": round(spent / elapsed, 2),
        "memory_mib": memory,
        "memory_growth": round(sum(late) / len(late) / (sum(early) / len(early)) - 1, 4),
        "peak_rss_mib": round(peak_rss_mib(), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--soak", action="store_true", help="for an hour")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seconds = given.seconds or (3600 if given.soak else 120)
    load = load_average()
    pipeline = load_pipeline(given.model, "cpu", InferenceConfig(precision=given.precision))
    settings = {"size": given.size, "sessions": given.sessions, "model": pipeline.settings.name}
    settings["precision"] = pipeline.described()
    found = measure(pipeline, given.size, given.sessions, seconds)
    report = report_header("live", describe_machine("cpu") | load, settings) | found
    print(json.dumps({name: value for name, value in report.items() if name != "memory_mib"}, indent=2))
    if given.out:
        write_atomic(given.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
