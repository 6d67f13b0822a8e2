"""Speed and memory, each measurement in a process of its own so that its peak memory is its own.

:mod:`asymtalker.bench.generation` generates, :mod:`asymtalker.bench.ceiling` says what the device can
do at most and what a chunk asks of it, :mod:`asymtalker.bench.training` takes training steps.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import asymtalker
from asymtalker.commands.exits import exit_by
from asymtalker.commands.stages import recipe_named
from asymtalker.config import InferenceConfig, Precision, to_dict
from asymtalker.dataset.corpus import encode_wav
from asymtalker.errors import UserError
from asymtalker.media.read import AudioFile
from asymtalker.media.whole import check_place, write_whole
from asymtalker.timeline import SAMPLE_RATE
from asymtalker.training.distributed import world

SHORT_SECONDS, SHORT_RUNS = 60, 3
"""Lengths up to this are run several times and reported as medians."""
TRAINING_STEPS = 5
STOP_SECONDS = 45
"""Torchrun gives its workers 30."""
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "torchao", "av")
DEFAULT_SIZE = (512, 512)
CPU_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16",
)  # fmt: skip
"""Linux's names of the instructions that speed depends on, of x86 and of Arm."""


def demo_inputs() -> tuple[Path, Path]:
    """The bundled portrait and speech."""
    folder = Path(str(resources.files("asymtalker"))) / "assets" / "demo"
    found = [next(folder.glob(f"{stem}.*"), None) for stem in ("portrait", "speech")]
    if found[0] is None or found[1] is None:
        raise UserError(f"{folder} lacks the bundled portrait and speech: give --image and --audio.")
    return found[0], found[1]


def bench_generate(
    seconds: Sequence[float],
    out: Path | None = None,
    model: str | None = None,
    device: str = "auto",
    image: Path | None = None,
    audio: Path | None = None,
    *,
    recipe: str | None = None,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    inference: InferenceConfig | None = None,
    gpus: int = 1,
    with_stock: bool = True,
) -> dict[str, Any]:
    """Measure :meth:`AsymTalkerPipeline.generate_to_file` on sound of several lengths, the device's own limits, and
    the same network through diffusers' stock Wan pipeline; say the figures on stderr and write a JSON report.

    Limits or a stock pipeline that could not be measured are null in it, the reason being under ``not_measured``.

    Args:
        seconds: lengths of sound; the speech is repeated or cut to each.
        out: JSON file to write, none by default.
        model: checkpoint, by default the bundled one.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        image: a portrait, by default the bundled one.
        audio: speech, by default the bundled one.
        recipe: name of a recipe, of whose size random weights are measured instead of a checkpoint.
        size: height and width of the frames in pixels, by default the checkpoint's, or of a recipe 512 x 512.
        steps: denoising steps per chunk, by default the checkpoint's or recipe's.
        inference: how the model is fitted to the machine.
        gpus: processes that share each chunk (context parallelism), one per GPU.
        with_stock: measure the stock pipeline; of several GPUs it never is, as it has one.

    Returns:
        The report; ``benchmarks/README.md`` says what each figure is.

    Raises:
        UserError: if an input cannot be used, which is the sentence of the process that found out, or ``out`` not be
            written.
        RuntimeError: if measuring limits or stock fails by a mistake of ours, after the report was written.
    """
    if out:
        check_place(out)
    if recipe:
        recipe_named(recipe)
        size = size or DEFAULT_SIZE
    if image is None or audio is None:
        portrait, speech = demo_inputs()
        image, audio = image or portrait, audio or speech
    settings = {
        "model": model, "recipe": recipe, "size": size, "steps": steps, "device": device, "gpus": gpus,
        "inference": to_dict(inference or InferenceConfig()),
    }  # fmt: skip
    job = settings | {"image": str(image)}
    results, made = [], {}
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        for length in seconds:
            sound = Path(folder) / f"{length:g}.wav"
            _write_sound(sound, AudioFile(audio), length)
            runs = SHORT_RUNS if length <= SHORT_SECONDS else 1
            inputs = {"runs": runs, "audio": str(sound), "output": str(Path(folder) / "out.mp4")}
            print(f"measuring {length:g} s of sound", file=sys.stderr)
            made = _measure_apart("pipeline", job | inputs, gpus)
            machine, network = made.pop("machine"), made.pop("network")
            results.append({"seconds": length, "runs": runs} | made)
            print(_line(results[-1]), file=sys.stderr)
            sound.unlink()
    fitted = settings["inference"]
    limits, no_limits = _measure_beside("limits", {"network": network, "attention": fitted["attention"]})
    beside = {"network": network, "inference": fitted, "runs": SHORT_RUNS}
    stock, no_stock = _measure_beside("stock", beside) if with_stock and gpus == 1 else (None, None)
    limits = limits or {"ceiling": None, "costs": None}
    for result in results:
        result |= judge(result, limits["ceiling"], limits["costs"], stock, gpus)
    report = report_header("generate", machine | load) | {"versions": versions(), "settings": settings}
    report |= {"network": network, "results": results, **limits, "stock": stock}
    print(_table(max(results, key=lambda result: result["seconds"]), report), file=sys.stderr)
    _finish(report, out, limits=no_limits, stock=no_stock)
    return report


def bench_train(
    out: Path | None,
    recipe: str,
    size: tuple[int, int] | None = None,
    device: str = "auto",
    *,
    precision: Precision = "auto",
    steps: int = TRAINING_STEPS,
    batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    gpus: int = 1,
) -> dict[str, Any]:
    """Measure training steps of a recipe's teacher on random weights and chunks, and the device's limits; say the
    figures on stderr and write a JSON report, in which a ceiling that could not be measured is null.

    Args:
        out: JSON file to write, or ``None``.
        recipe: its name.
        size: height and width of the frames in pixels.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        precision: see :func:`asymtalker.models.precision.choose_precision`.
        steps: optimizer steps to take the median of.
        batch: samples of a micro-batch, by default the recipe's.
        gradient_checkpointing: by default the recipe's.
        gpus: processes that share the weights (FSDP2), one per GPU.

    Returns:
        The report; ``benchmarks/README.md`` says what each figure is.

    Raises:
        UserError: if an input cannot be used or ``out`` not be written.
        RuntimeError: if measuring the ceiling fails by a mistake of ours, after the report was written.
    """
    if out:
        check_place(out)
    recipe_named(recipe)
    settings = {
        "recipe": recipe, "size": size or DEFAULT_SIZE, "device": device, "precision": precision, "steps": steps,
        "batch": batch, "gradient_checkpointing": gradient_checkpointing, "gpus": gpus,
    }  # fmt: skip
    load = load_average()
    print(f"measuring {steps} steps", file=sys.stderr)
    result = _measure_apart("training", settings, gpus)
    machine, network = result.pop("machine"), result.pop("network")
    ceiling, no_ceiling = _measure_beside("ceiling", {"network": network, "attention": None})
    result["share_of_ceiling"] = ceiling and round(result["tflops"] / ceiling["matmul_tflops"], 4)
    most = f", of the GPU {result['peak_gpu_mib']:.0f} MiB" if "peak_gpu_mib" in result else ""
    share = ""
    if ceiling:
        share = (
            f", {result['share_of_ceiling']:.1%} of {ceiling['matmul_tflops']:.3f} in matrix products"
            f" ({ceiling['dtype']})"
        )
    print(
        f"{result['seconds_per_step']:.3f} s for a step of {result['samples_per_step']} samples, peak"
        f" {result['peak_rss_mib']:.0f} MiB{most}: {result['tflops']:.3f} TFLOP/s{share}; with every sample decoded"
        f" {result['decoded']['seconds_per_step']:.3f} s",
        file=sys.stderr,
    )
    report = report_header("train", machine | load) | {"versions": versions(), "settings": settings}
    report |= {"network": network, "results": result, "ceiling": ceiling}
    _finish(report, out, ceiling=no_ceiling)
    return report


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


def versions() -> dict[str, str]:
    """Of the packages that speed depends on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _line(result: dict[str, Any]) -> str:
    steady = f" ({result['steady_fps']:.1f} after the first chunk)" if result["steady_fps"] else ""
    memory = f"{result['peak_rss_mib']:.0f} MiB"
    if "peak_gpu_mib" in result:
        memory += f", of the GPU {result['peak_gpu_mib']:.0f} MiB"
    return (
        f"{result['seconds']:g} s of sound: {result['fps']:.1f} FPS{steady}, first frame after"
        f" {result['first_frame_seconds']:.2f} s, peak {memory}"
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


def _measure_apart(task: str, job: dict[str, Any], processes: int = 1) -> dict[str, Any]:
    """What a measuring process, or the first of several, has found.

    Raises:
        UserError: the sentence of a process that could not use its input.
        RuntimeError: if one failed otherwise, with what it printed.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"  # torchrun passes on neither exit codes nor single sentences
        command = [sys.executable, *launch, "-m", "asymtalker.bench.run", task, json.dumps(job), str(said)]
        code, out, errors = _run(command)
        if said.exists():
            raise UserError(said.read_text())
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


def _measure_beside(task: str, job: dict[str, Any]) -> tuple[dict[str, Any] | None, Exception | None]:
    """What a measuring process has found, or what it failed with: it must not cost the results that are there."""
    print(f"measuring {task}", file=sys.stderr)
    try:
        return _measure_apart(task, job), None
    except (UserError, RuntimeError) as error:
        return None, error


def _finish(report: dict[str, Any], out: Path | None, **failures: Exception | None) -> None:
    """Say and note what could not be measured, write the report if wanted, and raise what was a mistake of ours."""
    failed = {task: error for task, error in failures.items() if error}
    report["not_measured"] = {task: str(error).strip().splitlines()[-1] for task, error in failed.items()}
    for task, reason in report["not_measured"].items():
        print(f"not measured: {task} ({reason})", file=sys.stderr)
    if out:
        write_whole(out, json.dumps(report, indent=2) + "\n")
    for error in failed.values():
        if not isinstance(error, UserError):
            raise error


def measure(task: str, job: dict[str, Any]) -> dict[str, Any]:
    """Do one measurement in this process."""
    from asymtalker.bench import ceiling as bench_ceiling
    from asymtalker.bench import generation as bench_measure
    from asymtalker.bench import training as bench_train

    match task:
        case "pipeline":
            return bench_measure.measure_pipeline(job)
        case "stock":
            return bench_measure.measure_stock(job)
        case "limits":
            costs = bench_ceiling.count_costs(job["network"])
            return {"ceiling": bench_ceiling.measure_ceiling(job), "costs": costs}
        case "ceiling":
            return bench_ceiling.measure_ceiling(job)
        case "training":
            return bench_train.measure_training(job)
        case _:
            raise ValueError(f"no task {task!r}")


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


def _processor() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().split("\n\n")[0].splitlines() if information.exists() else []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers depend on; ``device`` is PyTorch's name of it."""
    import torch

    about = _processor()
    has = set((about.get("flags") or about.get("Features") or "").split())  # of x86, of Arm
    return {
        "cpu": about.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in has],
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def main() -> None:
    """The measuring process: a task, its JSON and a file for the sentence of a UserError in, one JSON line out."""

    def work() -> None:
        try:
            found = measure(sys.argv[1], json.loads(sys.argv[2]))
        except UserError as error:
            write_whole(Path(sys.argv[3]), str(error))
            raise
        if world().main:
            print(json.dumps(found))

    exit_by(work)


if __name__ == "__main__":
    main()
