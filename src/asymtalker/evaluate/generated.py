"""Generate the clips of a reference from their portrait and sound, and time it."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asymtalker import __version__
from asymtalker.bench.machine import describe_machine, peak_rss_mib
from asymtalker.errors import UserError
from asymtalker.evaluate.clips import Clip, CorpusClip, Method, Reference, open_method
from asymtalker.evaluate.record import read_record, write_record
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.atomic import clear_unfinished, disk_is_full
from asymtalker.timeline import FPS, SAMPLE_RATE


def generate_videos(
    folder: Path, reference: Reference, pipeline: AsymTalkerPipeline, seed: int, console: Console
) -> Method:
    """Make a video of each clip's portrait and sound, ``FOLDER/NAME.mp4``; those that are there are kept.

    ``FOLDER/method.json`` says by what they were made, how long each took from the picture to the finished file, when
    its first chunk was done, on which machine, and what failed. What failed has no video; a video made on another
    machine has no times.

    Args:
        folder: of the videos of this checkpoint and seed.
        reference: the clips.
        pipeline: makes them.
        seed: of the noise.
        console: for progress.

    Raises:
        UserError: if the folder holds videos of something else, no video could be made, or the disk is full.
    """
    chunk = pipeline.settings.chunk
    settings = json.loads(json.dumps(asdict(pipeline.settings)))
    made_by = {"settings": settings, "seed": seed, "weights": _weights_hash(pipeline)}
    record: dict[str, Any] = _read(folder, made_by) or made_by | {
        "fps": FPS,
        "chunk": {"first": chunk.frames, "step": chunk.frames - chunk.continuity_frames},
        "machine": _machine(pipeline),
        "seconds_per_video": {},
        "first_chunk_seconds": {},
        "inputs": {},
        "failed": {},
    }
    clear_unfinished(folder)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("generating", total=len(reference.clips))
        for name, clip in reference.clips.items():
            write_record(folder, record)
            try:
                _generate(clip, reference, pipeline, seed, folder / f"{name}.mp4", record)
            except UserError as error:
                if disk_is_full(error):
                    raise
                (folder / f"{name}.mp4").unlink(missing_ok=True)  # of another picture or sound
                for part in ("seconds_per_video", "first_chunk_seconds", "inputs"):
                    record[part].pop(name, None)
                record["failed"][name] = str(error)
                bars.console.print(f"{name}: {error}", markup=False)
            bars.advance(bar)
    write_record(folder, record)
    if not any((folder / f"{name}.mp4").is_file() for name in reference.clips):
        raise UserError(f"No video could be made: {next(iter(record['failed'].values()))}")
    return open_method(pipeline.settings.name, folder, reference.clips)


def _weights_hash(pipeline: AsymTalkerPipeline) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for part in pipeline.components.values():
        for value in part.state_dict().values() if isinstance(part, torch.nn.Module) else ():
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parts_settings(pipeline: AsymTalkerPipeline) -> str:
    """What the weights are used with: the configuration of every part, but not from where and by which library it was
    read."""
    settings = {}
    for name, part in pipeline.components.items():
        config = getattr(part, "config", part)  # a feature extractor is its own
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
        shown = {key: value for key, value in values.items() if key != "transformers_version" and key[0] != "_"}
        settings[name] = [type(part).__name__, shown]
    return json.dumps(settings, sort_keys=True, default=str)


def _machine(pipeline: AsymTalkerPipeline) -> dict[str, Any]:
    """What speed depends on besides the checkpoint."""
    return describe_machine(str(pipeline.device)) | {"asymtalker": __version__}


def _read(folder: Path, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier, stopped run of the same."""
    record = read_record(folder)
    if record and any(record.get(key) != value for key, value in made_by.items()):
        raise UserError(f"{folder} holds videos of another checkpoint or seed: choose another output.")
    return record or None


def _generate(
    clip: Clip, reference: Reference, pipeline: AsymTalkerPipeline, seed: int, target: Path, record: dict[str, Any]
) -> None:
    """Make one video, if there is none of this picture and sound by the same parts; it has its name when it is whole
    and recorded."""
    portrait, sound = reference.portrait(clip.name), clip.sound()
    if portrait is None or not len(sound):
        raise UserError(f"{clip.name} has no {'sound' if portrait is not None else 'picture'} to generate from.")
    made_with = json.dumps([__version__, _parts_settings(pipeline)]).encode()
    inputs = hashlib.sha256(portrait.tobytes() + sound.tobytes() + made_with).hexdigest()
    if target.is_file() and record["inputs"].get(clip.name) == inputs and clip.name not in record["failed"]:
        return
    target.unlink(missing_ok=True)  # or it would pass for the new one if that is never finished
    framed, (height, width) = isinstance(clip, CorpusClip), pipeline.settings.size
    if framed and portrait.shape[:2] != (height, width):
        if portrait.shape[0] * width != portrait.shape[1] * height:
            raise UserError(
                f"{clip.name} is {portrait.shape[0]}x{portrait.shape[1]} (height x width), but the model makes"
                f" {height}x{width}: compare with clips of that shape."
            )
        portrait = cv2.resize(portrait, (width, height), interpolation=cv2.INTER_AREA)
    begin, ends = time.perf_counter(), []
    partial = target.with_name(f".{target.stem}.part.mp4")
    try:
        pipeline.generate_to_file(
            portrait,
            (sound, SAMPLE_RATE),
            partial,
            seed=seed,
            crop=True,
            framed=framed,
            progress=lambda done, _: ends.append(time.perf_counter()) if done else None,
            say=lambda _: None,
        )
        _note(record, clip.name, inputs, time.perf_counter() - begin, ends[0] - begin, pipeline)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)  # what a video that was stopped has left


def _note(
    record: dict[str, Any], name: str, inputs: str, seconds: float, first_chunk: float, pipeline: AsymTalkerPipeline
) -> None:
    """Note a video that was made, how long it took, and how much memory the process has had."""
    if record["machine"] != (machine := _machine(pipeline)):  # the speeds of two machines have no mean
        record |= {"machine": machine, "seconds_per_video": {}, "first_chunk_seconds": {}}
        record |= {"peak_rss_mib": 0.0, "peak_gpu_mib": 0.0}
    record["failed"].pop(name, None)
    record["inputs"][name] = inputs
    record["seconds_per_video"][name] = round(seconds, 3)
    record["first_chunk_seconds"][name] = round(first_chunk, 3)
    peaks = {"peak_rss_mib": peak_rss_mib()}
    if pipeline.device.type == "cuda":
        peaks["peak_gpu_mib"] = torch.cuda.max_memory_allocated(pipeline.device) / (1 << 20)
    for key, peak in peaks.items():
        record[key] = max(record.get(key, 0.0), round(peak, 1))
