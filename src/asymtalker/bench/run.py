"""The commands that measure: each measurement in a process of its own, so that its peak memory is its own, and what
comes of them said and written as JSON.

:mod:`asymtalker.commands.measuring` is that process.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import asymtalker
from asymtalker.bench.machine import load_average, versions
from asymtalker.bench.settings import BenchDistill, BenchGenerate, BenchTrain
from asymtalker.config import to_dict
from asymtalker.errors import UserError
from asymtalker.media.atomic import check_writable, write_atomic
from asymtalker.media.portrait import parse_size
from asymtalker.media.sound import AudioFile
from asymtalker.media.wav import encode_wav
from asymtalker.recipes import recipe_named
from asymtalker.timeline import SAMPLE_RATE

SHORT_SECONDS, SHORT_RUNS = 60, 3
"""Lengths up to this are run several times and reported as medians."""
STOP_SECONDS = 45
"""Torchrun gives its workers 30."""
STOPPED = "stopped before"
DEFAULT_SIZE = (512, 512)
"""Of a recipe, which names none."""


def bench_generate(settings: BenchGenerate) -> dict[str, Any]:
    """Measure :meth:`AsymTalkerPipeline.generate_to_file` on sound of several lengths, the device's own limits, and
    the same network through diffusers' stock Wan pipeline; say the figures on stderr and write a JSON report.

    Limits or a stock pipeline that could not be measured are null in it, the reason being under ``not_measured``. Of
    several GPUs the stock pipeline is never measured, as it has one.

    Returns:
        The report; ``benchmarks/README.md`` says what each figure is.

    Raises:
        UserError: if an input cannot be used, which is the sentence of the process that found out, or ``out`` not be
            written.
        RuntimeError: if measuring limits or stock fails by a mistake of ours, after the report was written.
    """
    lengths, gpus = _lengths(settings.seconds), settings.gpus
    if bool(settings.recipe) != settings.random_weights:
        raise UserError("--recipe and --random-weights go together: a recipe has no weights of its own.")
    if settings.recipe and settings.model:
        raise UserError("Give --model, to measure a checkpoint, or --recipe, not both.")
    _check_positive(steps=settings.steps, gpus=gpus)
    size = parse_size(settings.size) if settings.size else None
    if settings.out:
        check_writable(settings.out)
    if settings.recipe:
        recipe_named(settings.recipe)
        size = size or DEFAULT_SIZE
    image, audio = settings.image, settings.audio
    if image is None or audio is None:
        portrait, speech = demo_inputs()
        image, audio = image or portrait, audio or speech
    job = {
        "model": settings.model, "recipe": settings.recipe, "size": size, "steps": settings.steps,
        "device": settings.device, "gpus": gpus, "inference": to_dict(settings.inference),
    }  # fmt: skip
    load = load_average()
    results, described = _measure_lengths(lengths, job | {"image": str(image)}, audio, gpus)
    network, inference = described["network"], job["inference"]
    report = report_header("generate", described["machine"] | load, job) | {"network": network}

    def judged(ceiling: Any, costs: Any, stock: Any) -> dict[str, Any]:
        given = {"ceiling": ceiling, "costs": costs, "stock": stock}
        return report | given | {"results": [made | judge(made, *given.values(), gpus) for made in results]}

    with_stock = settings.stock and gpus == 1
    _write(judged(None, None, None), settings.out, **dict.fromkeys(["limits", *["stock"] * with_stock], STOPPED))
    limits, no_limits = _try_to_measure("limits", {"network": network, "attention": inference["attention"]})
    beside = {"network": network, "inference": inference, "runs": SHORT_RUNS}
    stock, no_stock = _try_to_measure("stock", beside) if with_stock else (None, None)
    limits = limits or {"ceiling": None, "costs": None}
    report = judged(limits["ceiling"], limits["costs"], stock)
    print(_table(max(report["results"], key=lambda result: result["seconds"]), report), file=sys.stderr)
    _finish(report, settings.out, limits=no_limits, stock=no_stock)
    return report


def bench_train(settings: BenchTrain) -> dict[str, Any]:
    """Measure optimizer steps of a recipe's teacher on random weights and chunks, and the device's limits; say the
    figures on stderr and write a JSON report, in which a ceiling that could not be measured is null.

    Returns:
        The report; ``benchmarks/README.md`` says what each figure is.

    Raises:
        UserError: if an input cannot be used or ``out`` not be written.
        RuntimeError: if measuring the ceiling fails by a mistake of ours, after the report was written.
    """
    return _bench_steps("train", settings)


def bench_distill(settings: BenchDistill) -> dict[str, Any]:
    """The same of a recipe's distillation, its critic and student updates apart: see :func:`bench_train`."""
    return _bench_steps("distill", settings)


def _bench_steps(verb: str, settings: BenchTrain | BenchDistill) -> dict[str, Any]:
    if not settings.random_weights:
        raise UserError(f"bench {verb} measures random weights only: give --random-weights.")
    _check_positive(steps=settings.steps, batch=settings.batch, gpus=settings.gpus)
    if settings.out:
        check_writable(settings.out)
    recipe_named(settings.recipe)
    job = {
        "recipe": settings.recipe, "size": parse_size(settings.size), "device": settings.device,
        "precision": settings.precision, "steps": settings.steps, "batch": settings.batch,
        "gradient_checkpointing": settings.gradient_checkpointing, "gpus": settings.gpus,
    }  # fmt: skip
    load = load_average()
    print(f"measuring {settings.steps} steps", file=sys.stderr)
    result = _measure_in_process(verb, job, settings.gpus)
    machine, network = result.pop("machine"), result.pop("network")
    report = report_header(verb, machine | load, job) | {"network": network, "results": result}
    _write(report | {"ceiling": None}, settings.out, ceiling=STOPPED)
    ceiling, no_ceiling = _try_to_measure("ceiling", {"network": network, "attention": None})
    for timed in (result, *(result[name] for name in ("critic_update", "student_update") if name in result)):
        timed["share_of_ceiling"] = ceiling and round(timed["tflops"] / ceiling["matmul_tflops"], 4)
    print(_step_line(result, ceiling), file=sys.stderr)
    report |= {"ceiling": ceiling}
    _finish(report, settings.out, ceiling=no_ceiling)
    return report


def _lengths(text: str) -> list[float]:
    try:
        lengths = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seconds must be numbers with commas between, such as 10,60: not {text}.") from None
    if min(lengths) <= 0:
        raise UserError(f"--seconds must be lengths above 0, not {text}.")
    return lengths


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"--{name} must be at least 1, not {number}.")


def demo_inputs() -> tuple[Path, Path]:
    """The bundled portrait and speech."""
    folder = Path(str(resources.files("asymtalker"))) / "assets" / "demo"
    found = [next(folder.glob(f"{stem}.*"), None) for stem in ("portrait", "speech")]
    if found[0] is None or found[1] is None:
        raise UserError(f"{folder} lacks the bundled portrait and speech: give --image and --audio.")
    return found[0], found[1]


def _measure_lengths(
    lengths: list[float], job: dict[str, Any], audio: Path, gpus: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A result for each length of sound, repeated or cut to it, and the machine and network, the same for all."""
    results, described = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            sound = Path(folder) / f"{length:g}.wav"
            _write_sound(sound, AudioFile(audio), length)
            runs = SHORT_RUNS if length <= SHORT_SECONDS else 1
            inputs = {"runs": runs, "audio": str(sound), "output": str(Path(folder) / "out.mp4")}
            print(f"measuring {length:g} s of sound", file=sys.stderr)
            made = _measure_in_process("pipeline", job | inputs, gpus)
            described = {name: made.pop(name) for name in ("machine", "network")}
            results.append({"seconds": length, "runs": runs} | made)
            print(_line(results[-1]), file=sys.stderr)
            sound.unlink()
    return results, described


def judge(
    result: dict[str, Any],
    ceiling: dict[str, Any] | None,
    costs: dict[str, Any] | None,
    stock: dict[str, Any] | None,
    gpus: int = 1,
) -> dict[str, Any]:
    """What a measured result reached of the device's limits, and beside the stock pipeline.

    Args:
        result: of :func:`asymtalker.bench.generation.measure_pipeline`.
        ceiling: of :func:`asymtalker.bench.ceiling.measure_ceiling`, of one GPU.
        costs: of :func:`asymtalker.bench.ceiling.count_costs`.
        stock: of :func:`asymtalker.bench.generation.measure_stock`.
        gpus: that shared the work of the transformer; each decodes all.

    Returns:
        ``tflops`` and ``share_of_ceiling`` of the transformer and the decoder, ``floor_fps``, ``share_of_floor``,
        ``seconds_per_chunk`` and ``times_stock``: stock's seconds per frame over ours. Null is what follows from
        something that is, and ``times_stock`` of several GPUs, as stock has one.
    """
    fps = result["steady_fps"] or result["fps"]
    figures: dict[str, Any] = dict.fromkeys(
        ("tflops", "share_of_ceiling", "floor_fps", "share_of_floor", "seconds_per_chunk", "times_stock")
    )
    if ceiling and costs:
        most = ceiling["matmul_tflops"]
        seconds, calls = result["part_seconds"], result["part_calls"]
        # With a preview decoder the codec does not decode the last chunk, which may be the only one.
        shared = {part: share for part, share in {"transformer": gpus, "decode": 1}.items() if part in calls}
        tflops = {part: 1e-12 * costs[part] * calls[part] / seconds[part] for part in shared}
        floor = costs["new_frames"] * 1e12 * most * gpus / costs["chunk"]
        figures |= {
            "tflops": {part: round(value, 4) for part, value in tflops.items()},
            "share_of_ceiling": {part: round(value / most / shared[part], 4) for part, value in tflops.items()},
            "floor_fps": round(floor, 3),
            "share_of_floor": round(fps / floor, 4),
            "seconds_per_chunk": round(costs["new_frames"] / fps, 4),
        }
    if stock and gpus == 1:
        figures["times_stock"] = round(fps / stock["fps"], 3)
    return figures


def report_header(benchmark: str, machine: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """What every report begins with; of the machine with :func:`asymtalker.bench.machine.load_average`."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "asymtalker": asymtalker.__version__,
        "machine": machine,
        "versions": versions(),
        "settings": job,
    }


def _line(result: dict[str, Any]) -> str:
    steady = f" ({result['steady_fps']:.1f} after the first chunk)" if result["steady_fps"] else ""
    return (
        f"{result['seconds']:g} s of sound: {result['fps']:.1f} FPS{steady}, first frame after"
        f" {result['first_frame_seconds']:.2f} s, peak {_memory(result)}"
    )


def _memory(result: dict[str, Any]) -> str:
    gpu = f", of the GPU {result['peak_gpu_mib']:.0f} MiB" if "peak_gpu_mib" in result else ""
    return f"{result['peak_rss_mib']:.0f} MiB{gpu}"


def _step_line(result: dict[str, Any], ceiling: dict[str, Any] | None) -> str:
    """A training step for people."""
    share = ""
    if ceiling:
        most = f"{ceiling['matmul_tflops']:.3f} in matrix products ({ceiling['dtype']})"
        share = f", {result['share_of_ceiling']:.1%} of {most}"
    if "decoded" in result:
        parts = f"with every sample decoded {result['decoded']['seconds_per_step']:.3f} s"
    else:
        parts = (
            f"{result['critic_updates']} updates of the critic of {result['critic_update']['seconds']:.3f} s each, one"
            f" of the student of {result['student_update']['seconds']:.3f} s"
        )
    return (
        f"{result['seconds_per_step']:.3f} s for a step of {result['samples_per_step']} samples, peak"
        f" {_memory(result)}: {result['tflops']:.3f} TFLOP/s{share}; {parts}"
    )


def _table(result: dict[str, Any], report: dict[str, Any]) -> str:
    """Parts, limits and yardstick of one length, for people."""
    ceiling, costs, stock, total = report["ceiling"], report["costs"], report["stock"], result["synchronized_seconds"]
    lines = [f"{'part':<12} {'seconds':>9} {'share':>6} {'TFLOP/s':>9} {'of ceiling':>11}"]
    for part, seconds in sorted(result["part_seconds"].items(), key=lambda item: -item[1]):
        rate = ""
        if part in (result["tflops"] or ()):
            rate = f" {result['tflops'][part]:>9.3f} {result['share_of_ceiling'][part]:>11.1%}"
        lines.append(f"{part:<12} {seconds:>9.3f} {seconds / total:>6.1%}{rate}")
    lines.append(
        f"sum {sum(result['part_seconds'].values()):.3f} s, from start to end {total:.3f} s, and"
        f" {result['total_seconds']:.3f} s without waiting between parts"
    )
    if ceiling and costs:
        lines += [
            f"ceiling ({ceiling['dtype']}): {ceiling['matmul_tflops']:.3f} TFLOP/s in matrix products,"
            f" {ceiling['attention_tflops']:.3f} in attention of {ceiling['attention_shape']}",
            f"a chunk is {1e-12 * costs['chunk']:.4g} TFLOP: at that ceiling {result['floor_fps']:.1f} FPS,"
            f" of which {result['share_of_floor']:.1%} are reached in {result['seconds_per_chunk']:.3f} s for"
            f" {costs['new_frames']} frames",
        ]
    if stock:
        times = "" if result["times_stock"] is None else f", ours {result['times_stock']:.2f} times as many"
        lines.append(
            f"stock Wan pipeline ({stock['fitted']}): {stock['seconds_per_chunk']:.3f} s for"
            f" {stock['frames_per_chunk']} frames, {stock['fps']:.1f} a second{times}"
        )
    return "\n".join(lines)


def _write_sound(path: Path, audio: AudioFile, seconds: float) -> None:
    """The sound, repeated or cut to ``seconds``."""
    samples = audio.read(0, audio.num_samples)
    path.write_bytes(encode_wav(np.resize(samples, round(seconds * SAMPLE_RATE))))


def _measure_in_process(task: str, job: dict[str, Any], processes: int = 1) -> dict[str, Any]:
    """What a measuring process, or the first of several, has found.

    Raises:
        UserError: the sentence of a process that could not use its input.
        RuntimeError: if one failed otherwise, with what it printed.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        sentence = Path(folder) / "sentence"  # torchrun passes on neither exit codes nor sentences
        command = [
            sys.executable,
            *launch,
            "-m",
            "asymtalker.commands.measuring",
            task,
            json.dumps(job),
            str(sentence),
        ]
        code, out, errors = _run(command)
        if sentence.exists():
            raise UserError(sentence.read_text())
    if code:
        raise RuntimeError(f"the measuring process failed ({code}):\n{errors}")
    return json.loads(out.splitlines()[-1])


def _run(command: list[str]) -> tuple[int, str, str]:
    """Exit code and what was printed. Stopped meanwhile, it stops the command too, and gives torchrun the time to stop
    its workers, which are in sessions of their own."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, errors = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return process.returncode, out, errors


def _try_to_measure(task: str, job: dict[str, Any]) -> tuple[dict[str, Any] | None, Exception | None]:
    """What a measuring process has found, or what it failed with: it must not cost the results that are there."""
    print(f"measuring {task}", file=sys.stderr)
    try:
        return _measure_in_process(task, job), None
    except (UserError, RuntimeError) as error:
        return None, error


def _write(report: dict[str, Any], out: Path | None, **not_measured: str) -> None:
    """Write the report, if wanted, as far as it goes: what is still to be measured may be stopped."""
    report["not_measured"] = not_measured
    if out:
        write_atomic(out, json.dumps(report, indent=2) + "\n")


def _finish(report: dict[str, Any], out: Path | None, **failures: Exception | None) -> None:
    """Say and note what could not be measured, write the report if wanted and print its path, and raise what was a
    mistake of ours."""
    failed = {task: error for task, error in failures.items() if error}
    _write(report, out, **{task: str(error).strip().splitlines()[-1] for task, error in failed.items()})
    for task, reason in report["not_measured"].items():
        print(f"not measured: {task} ({reason})", file=sys.stderr)
    if out:
        print(out)
    for error in failed.values():
        if not isinstance(error, UserError):
            raise error
