"""What a measuring process of :mod:`asymtalker.bench.run` does: generate by AsymTalker, or by diffusers' stock
Wan pipeline, and time the parts."""

import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageOps

from asymtalker import rollout
from asymtalker.bench.machine import describe_machine, peak_memory, peak_of_loading, synchronize
from asymtalker.bench.random_weights import random_network, random_pipeline
from asymtalker.codec import to_frames
from asymtalker.config import InferenceConfig
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline, load_pipeline
from asymtalker.generate.placement import check_inference, fit
from asymtalker.media.picture import read_picture
from asymtalker.media.sound import AudioFile
from asymtalker.media.video import VideoWriter
from asymtalker.models.codecs import codec_of
from asymtalker.models.loading import explain_out_of_memory
from asymtalker.models.motion.codec import MotionCodecModel
from asymtalker.models.precision import weights_precision
from asymtalker.models.taehv import PreviewDecoder
from asymtalker.recipes import recipe_named
from asymtalker.sizing.empty import holds_motion
from asymtalker.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME
from asymtalker.training.distributed import start, world

Job = dict[str, Any]
TEXT_TOKENS, TEXT_DIM = 512, 4096
"""What Wan's transformer is given of a prompt: UMT5's features, padded."""


class PartTimer:
    """Adds up the time spent in methods, waiting for the GPU at their borders.

    Parts that run in other threads than the timer's are counted apart, as they hide behind those that run in its own,
    and without waiting: all threads give their work to one stream, and theirs would wait for the timer's.
    """

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.hidden: dict[str, float] = defaultdict(float)
        self._device = device
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    def watch(self, owner: Any, method: str, part: Callable[[int], str]) -> None:
        """Time ``owner.method``; ``part(n)`` names what its n-th call counts towards."""
        original = getattr(owner, method)
        calls = 0

        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            own = threading.get_ident() == self._thread
            if own:
                synchronize(self._device)
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                if own:
                    synchronize(self._device)
                seconds = time.perf_counter() - start
                with self._lock:
                    name = part(calls)
                    calls += 1
                    self.calls[name] += 1
                    (self.seconds if own else self.hidden)[name] += seconds

        setattr(owner, method, timed)

    def report(self, total: float) -> dict[str, float]:
        """Seconds by part, ``other`` being what is left of ``total`` in the timer's own thread."""
        own = {**self.seconds, "other": total - sum(self.seconds.values())}
        names = sorted(own.keys() | self.hidden.keys())
        return {name: round(own.get(name, 0.0) + self.hidden.get(name, 0.0), 4) for name in names}


def measure_pipeline(job: Job) -> dict[str, Any]:
    """Generate a video in this process several times and report on it.

    First two chunks' worth, which compiles and finds the quickest kernels (``cold``); then ``runs`` times without
    waiting for the GPU anywhere inside; then once with it, for the times of the parts.

    Args:
        job: ``model`` or ``recipe`` with ``size``; ``device``, ``inference``, ``image``, ``audio``, ``output``,
            ``runs``, and ``steps``, which may be null.

    Returns:
        What ``benchmarks/README.md`` explains; nothing, of several processes, on all but the main one.
    """
    begin = time.perf_counter()
    pipeline = _load(job)
    device = pipeline._execution_device
    load_seconds, loading = time.perf_counter() - begin, peak_of_loading(device)
    picture: Any = job["image"]
    if job["recipe"]:
        image = Image.fromarray(read_picture(Path(job["image"])))
        picture = np.asarray(ImageOps.fit(image, (job["size"][1], job["size"][0])))
    chunk = pipeline.settings.chunk
    two_chunks = (2 * chunk.frames - chunk.continuity_frames) * SAMPLES_PER_FRAME
    source = AudioFile(job["audio"])
    output = Path(job["output"])

    def run(audio: Any) -> dict[str, Any]:
        return _generate(pipeline, picture, audio, output, job, device)

    cold = run((source.read(0, min(two_chunks, source.num_samples)), SAMPLE_RATE))
    runs = [run(job["audio"]) for _ in range(job["runs"])]
    timer, codec = PartTimer(device), type(codec_of(pipeline.vae))
    timer.watch(pipeline.audio_encoder, "forward", lambda _: "audio")
    timer.watch(rollout, "predict_velocity", lambda _: "transformer")
    if isinstance(pipeline.vae, MotionCodecModel):
        timer.watch(MotionCodecModel, "frames", lambda _: "decode")
        timer.watch(codec, "encode_again", lambda _: "re_encode")
    else:
        timer.watch(codec, "decode", lambda _: "decode")
    timer.watch(codec, "encode", lambda call: "re_encode" if call else "identity")
    timer.watch(PreviewDecoder, "decode", lambda _: "preview")
    for method in ("write", "write_audio", "close"):
        timer.watch(VideoWriter, method, lambda _: "file")
    timed = run(job["audio"])
    if not world().main:
        return {}
    return medians(runs) | {
        "cold_first_frame_seconds": round(cold["first_frame_seconds"], 3),
        "cold_first_chunk_seconds": round(cold["first_chunk_seconds"], 3),
        "load_seconds": round(load_seconds, 3),
        "synchronized_seconds": round(timed["total_seconds"], 3),
        "part_seconds": timer.report(timed["total_seconds"]),
        "part_calls": dict(sorted(timer.calls.items())),
        "hidden_seconds": round(sum(timer.hidden.values()), 3),
        **loading,
        **peak_memory(device),
        "machine": describe_machine(str(device)) | _describe_model(pipeline),
        "network": pipeline.describe(job["size"], job["steps"]),
    }


def _describe_model(pipeline: AsymTalkerPipeline) -> dict[str, Any]:
    """What the checkpoint is and how it samples."""
    return {
        "model": pipeline.settings.name,
        "size": pipeline.settings.sample_size,
        "steps": pipeline.settings.sampler.num_steps,
        "guidance_scale": pipeline.settings.sampler.guidance_scale,
    }


def _load(job: Job) -> AsymTalkerPipeline:
    inference = _inference(job)
    if not job["recipe"]:
        return load_pipeline(job["model"], job["device"], inference)
    check_inference(inference)
    where = start(job["device"])
    with explain_out_of_memory("The GPU's memory is too small for the weights."):
        dtype = weights_precision(where, inference.precision)
        recipe, size = recipe_named(job["recipe"]), tuple(job["size"])
        pipeline = random_pipeline(recipe, size, _drawing_device(where, inference), dtype)
    return pipeline.place(where, inference)


def _inference(job: Job) -> InferenceConfig:
    """What JSON has made of it."""
    preview = job["inference"]["preview"]
    return InferenceConfig(**job["inference"] | {"preview": preview and Path(preview)})


def _drawing_device(device: torch.device, inference: InferenceConfig) -> torch.device:
    """Where random weights are drawn: what is offloaded may be too large for the GPU."""
    return device if inference.offload == "none" else torch.device("cpu")


def _generate(
    pipeline: AsymTalkerPipeline, picture: Any, audio: Any, output: Path, job: Job, device: torch.device
) -> dict[str, Any]:
    """One video, timed from the outside, frame by frame as they are written; ``steady_fps`` is of the whole chunks
    after the first, null where there are none. Of several processes the main one writes and has something to say."""
    written: list[float] = []
    write = VideoWriter.write

    def timed_write(writer: VideoWriter, frames: np.ndarray) -> None:
        write(writer, frames)
        written.extend([time.perf_counter()] * len(frames))

    VideoWriter.write = timed_write
    synchronize(device)
    begin = time.perf_counter()
    try:
        pipeline.generate_to_file(
            picture,
            audio,
            output,
            num_inference_steps=job["steps"],
            size=tuple(job["size"]) if job["size"] else None,
            crop=True,
            framed=bool(job["recipe"]),
            say=lambda sentence: print(sentence, file=sys.stderr),
        )
    finally:
        VideoWriter.write = write
    end = time.perf_counter()
    if not written:
        return {}
    chunk = pipeline.settings.chunk
    frames, first, each = len(written), min(chunk.frames, len(written)), chunk.frames - chunk.continuity_frames
    steady = (frames - first) // each * each
    return {
        "frames": frames,
        "fps": frames / (end - begin),
        "steady_fps": steady / (written[first + steady - 1] - written[first - 1]) if steady else None,
        "total_seconds": end - begin,
        "first_frame_seconds": written[0] - begin,
        "first_chunk_seconds": written[first - 1] - begin,
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each key; null where it is."""
    return {
        key: None if value is None else round(statistics.median(run[key] for run in runs), 3)
        for key, value in runs[0].items()
    }


def measure_stock(job: Job) -> dict[str, Any]:
    """The same transformer and codec, with random weights, through diffusers' own pipeline: one chunk at a time.

    Prompt features are given, so that no text encoder is there. Without guidance, as a distilled student runs, and
    with a step for each pass of the transformer that ours makes. Fitted to the machine as ours is, save for 8-bit
    weights, the preview decoder and more than one process.

    Args:
        job: ``network`` of a pipeline, ``inference``, ``runs``.

    Raises:
        UserError: if it has no codec such as ours, the GPU's memory is too small for it, or its attention cannot be
            used here.
    """
    if holds_motion(job["network"]):
        raise UserError("diffusers' Wan pipeline has no codec of motion")
    inference, device = _inference(job), torch.device(job["network"]["device"])
    with explain_out_of_memory("The GPU's memory is too small for the stock pipeline."):
        pipeline = _stock_pipeline(job["network"], _drawing_device(device, inference))
        fit(pipeline, device, inference)
        return peak_of_loading(device) | _time_stock(pipeline, job, device)


def _options_in_words(network: dict[str, Any], inference: InferenceConfig) -> str:
    """Precision and options that the stock pipeline runs with, in words."""
    options = ["compiled"] * inference.compile + ["VAE tiling"] * inference.vae_tiling
    options += [f"offload {inference.offload}"] * (inference.offload != "none")
    options += [f"attention {inference.attention}"] * (inference.attention is not None)
    return ", ".join([network["autocast"] or network["dtype"], "one process", *options])


def _stock_pipeline(network: dict[str, Any], device: torch.device) -> WanPipeline:
    """diffusers' pipeline with random weights on a device."""
    sizes = network["transformer"]
    shared = (
        "patch_size", "num_attention_heads", "attention_head_dim", "freq_dim", "ffn_dim", "num_layers",
        "cross_attn_norm", "eps", "rope_max_seq_len",
    )  # fmt: skip
    channels = {"in_channels": sizes["latent_channels"], "out_channels": sizes["latent_channels"]}
    transformer = random_network(
        lambda: WanTransformer3DModel(**{key: sizes[key] for key in shared}, **channels, text_dim=TEXT_DIM),
        device,
        getattr(torch, network["dtype"]),
        0,
    )
    vae = random_network(
        lambda: cast(AutoencoderKLWan, AutoencoderKLWan.from_config(network["vae"])),
        device,
        getattr(torch, network["codec_dtype"]),
        1,
    )
    pipeline = WanPipeline(
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=network["shift"]),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _time_stock(pipeline: WanPipeline, job: Job, device: torch.device) -> dict[str, Any]:
    network = job["network"]
    prompt = torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(0)).to(device)
    autocast = network["autocast"] and getattr(torch, network["autocast"])

    def run() -> float:
        synchronize(device)
        start = time.perf_counter()
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            made: Any = pipeline(
                prompt_embeds=prompt,
                height=network["size"][0],
                width=network["size"][1],
                num_frames=network["frames"],
                num_inference_steps=network["passes"],
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(0),
                output_type="pt",  # (1, F, 3, H, W) in [0, 1]
            )
            to_frames(2 * made.frames.transpose(1, 2) - 1)  # as ours are, not in float32 by the CPU
        return time.perf_counter() - start

    cold = run()
    seconds = statistics.median(run() for _ in range(job["runs"]))
    timer = PartTimer(device)
    timer.watch(pipeline.transformer, "forward", lambda _: "transformer")
    timer.watch(pipeline.vae, "decode", lambda _: "decode")
    timed = run()
    return {
        "fitted": _options_in_words(network, _inference(job)),
        "seconds_per_chunk": round(seconds, 4),
        "cold_seconds_per_chunk": round(cold, 4),
        "frames_per_chunk": network["frames"],
        "fps": round(network["frames"] / seconds, 3),
        "part_seconds": timer.report(timed),
        **peak_memory(device),
    }
