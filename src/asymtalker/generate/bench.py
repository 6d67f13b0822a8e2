"""Speed and memory of generation, each length measured in a process of its own so that its peak memory is its own."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import asymtalker
from asymtalker.corpus import encode_wav
from asymtalker.errors import UserError
from asymtalker.media import AudioFile
from asymtalker.timeline import SAMPLE_RATE
from asymtalker.whole import check_place, write_whole

SHORT_SECONDS, SHORT_RUNS = 60, 3
"""Lengths up to this are run several times and reported as medians."""


def demo_inputs() -> tuple[Path, Path]:
    """The bundled portrait and speech."""
    folder = Path(str(resources.files("asymtalker"))) / "assets" / "demo"
    found = [next(folder.glob(f"{stem}.*"), None) for stem in ("portrait", "speech")]
    if found[0] is None or found[1] is None:
        raise UserError(f"{folder} lacks the bundled portrait and speech: give --image and --audio.")
    return found[0], found[1]


def bench_generate(
    seconds: Sequence[float],
    out: Path,
    model: str | None = None,
    device: str = "auto",
    image: Path | None = None,
    audio: Path | None = None,
) -> dict[str, Any]:
    """Measure :meth:`AsymTalkerPipeline.generate_to_file` on sound of several lengths and write a JSON report.

    Args:
        seconds: lengths of sound; the speech is repeated or cut to each.
        out: JSON file to write.
        model: checkpoint, by default the bundled one.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        image: a portrait, by default the bundled one.
        audio: speech, by default the bundled one.

    Returns:
        The report: machine, and for each length medians of ``fps`` (frames over the time from the call to the finished
        file), ``first_chunk_seconds`` (from the call to the first frames in the file), ``load_seconds``,
        ``peak_rss_mib`` and ``part_seconds``.

    Raises:
        UserError: if an input cannot be used, which is the sentence of the process that found out, or ``out`` not be
            written.
    """
    check_place(out)
    if image is None or audio is None:
        portrait, speech = demo_inputs()
        image, audio = image or portrait, audio or speech
    job = {"model": model, "device": device, "image": str(image)}
    results, machine = [], {}
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        for length in seconds:
            sound = Path(folder) / f"{length:g}.wav"
            _write_sound(sound, AudioFile(audio), length)
            runs = []
            for _ in range(SHORT_RUNS if length <= SHORT_SECONDS else 1):
                run = _measure_apart(job | {"audio": str(sound), "output": str(Path(folder) / "out.mp4")})
                machine = run.pop("machine")
                runs.append(run)
            results.append({"seconds": length, "runs": len(runs)} | _medians(runs))
            print(_line(results[-1]), file=sys.stderr)
            sound.unlink()
    report = report_header("generate", machine | load) | {"results": results}
    write_whole(out, json.dumps(report, indent=2) + "\n")
    return report


def report_header(benchmark: str, machine: dict[str, Any]) -> dict[str, Any]:
    """What every report begins with: the date, the version, and the machine with :func:`load_average`."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "asymtalker": asymtalker.__version__,
        "machine": machine,
    }


def load_average() -> dict[str, float]:
    """How busy the machine is; to be asked before the measuring."""
    return {"load_average_before": round(os.getloadavg()[0], 2)}


def _line(result: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {value:.2f} s" for name, value in result["part_seconds"].items())
    return (
        f"{result['seconds']:g} s of sound: {result['fps']:.1f} FPS, first chunk after"
        f" {result['first_chunk_seconds']:.2f} s, peak {result['peak_rss_mib']:.0f} MiB ({parts})"
    )


def _write_sound(path: Path, audio: AudioFile, seconds: float) -> None:
    """The sound, repeated or cut to ``seconds``."""
    samples = audio.read(0, audio.num_samples)
    path.write_bytes(encode_wav(np.resize(samples, round(seconds * SAMPLE_RATE))))


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Key by key; nested once."""
    return {
        key: _medians([run[key] for run in runs])
        if isinstance(value, dict)
        else round(statistics.median(run[key] for run in runs), 3)
        for key, value in runs[0].items()
    }


def _measure_apart(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "asymtalker.generate.bench", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise UserError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"the measuring process failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class _Timer:
    """Adds up the time spent in methods."""

    def __init__(self, synchronize: Callable[[], None]):
        self.seconds: dict[str, float] = defaultdict(float)
        self._synchronize = synchronize

    def watch(self, owner: Any, method: str, part: Callable[[int], str]) -> None:
        """Time ``owner.method``; ``part(n)`` names what its n-th call counts towards."""
        original = getattr(owner, method)
        calls = 0

        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            self._synchronize()
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self._synchronize()
                self.seconds[part(calls)] += time.perf_counter() - start
                calls += 1

        setattr(owner, method, timed)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Generate once in this process and report on it; ``job`` has model, device, image, audio and output."""
    import torch

    from asymtalker.generate.pipeline import load_pipeline
    from asymtalker.video import VideoWriter

    start = time.perf_counter()
    pipeline = load_pipeline(job["model"], job["device"])
    loaded = time.perf_counter()
    on_gpu = pipeline.device.type == "cuda"
    timer = _Timer(torch.cuda.synchronize if on_gpu else lambda: None)
    timer.watch(pipeline.audio_encoder, "forward", lambda _: "audio")
    timer.watch(pipeline.transformer, "forward", lambda _: "transformer")
    timer.watch(pipeline.vae, "decode", lambda _: "decode")
    timer.watch(pipeline.vae, "encode", lambda call: "re_encode" if call else "identity")
    for method in ("write", "write_audio", "close"):
        timer.watch(VideoWriter, method, lambda _: "file")

    chunk_ends: list[float] = []
    frames = 0

    def progress(done: int, total: int) -> None:
        nonlocal frames
        frames = total
        if done:
            chunk_ends.append(time.perf_counter())

    begin = time.perf_counter()
    pipeline.generate_to_file(job["image"], job["audio"], job["output"], progress=progress, say=_say)
    total = time.perf_counter() - begin
    timer.seconds["other"] = total - sum(timer.seconds.values())
    return {
        "frames": frames,
        "fps": frames / total,
        "total_seconds": total,
        "first_chunk_seconds": chunk_ends[0] - begin,
        "load_seconds": loaded - start,
        "peak_rss_mib": peak_rss_mib(),
        "part_seconds": {name: round(value, 3) for name, value in sorted(timer.seconds.items())},
        "machine": describe_machine(pipeline.device.type) | describe_model(pipeline),
    }


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def peak_rss_mib() -> float:
    """Most memory this process has held.

    Linux keeps ``ru_maxrss`` across exec, so that a child of a large process would report its parent's: ``VmHWM`` does
    not have that fault.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def describe_model(pipeline: Any) -> dict[str, Any]:
    """What the checkpoint is and how it samples."""
    return {
        "model": pipeline.settings.name,
        "size": pipeline.settings.sample_size,
        "steps": pipeline.settings.sampler.num_steps,
        "guidance_scale": pipeline.settings.sampler.guidance_scale,
    }


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers depend on; ``device`` is PyTorch's name of it."""
    import torch

    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def main() -> None:
    """The measuring process: one JSON argument in, one JSON line out."""
    try:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
