"""``AsymTalkerPipeline``: a portrait and a voice in, a talking video out, chunk by chunk (section 3.2).

A checkpoint is a diffusers folder: ``model_index.json``, ``transformer/``, ``vae/``, ``audio_encoder/``,
``feature_extractor/``, ``scheduler/`` and, for CLIP and VTP, ``image_encoder/``, weights as safetensors only.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils.outputs import BaseOutput
from PIL import Image
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from asymtalker.codec import fetch_frames, to_pixels
from asymtalker.config import ChunkConfig, IdentityStrategy, InferenceConfig, SamplerConfig
from asymtalker.errors import UserError
from asymtalker.generate.background import Background
from asymtalker.generate.folder import SAMPLE_SIZE, PipelineSettings, checkpoint_folder, read_index
from asymtalker.generate.inputs import (
    FileRequest,
    FramesRequest,
    Inputs,
    Request,
    called_with,
    check_not_input,
    check_sampling,
    origin_of,
    read_inputs,
)
from asymtalker.generate.placement import check_inference, check_split, fit, split_tokens, to_fp8
from asymtalker.generate.turns import Turns
from asymtalker.media.portrait import paste_back
from asymtalker.media.video import VideoWriter, check_output
from asymtalker.models.audio import AudioEncoder, AudioFeatures, SampleSource, load_audio_encoder
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.identity import ImageEncoder, encode_identity, load_image_encoder
from asymtalker.models.loading import hide_bars, load_part, quiet
from asymtalker.models.motion.blinks import Blinks
from asymtalker.models.motion.codec import MotionCodec, MotionCodecModel
from asymtalker.models.precision import choose_precision, describe_precision, weights_precision
from asymtalker.models.taehv import PreviewDecoder, load_preview
from asymtalker.models.threads import unshared
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.provenance.credentials import Made, Signer
from asymtalker.provenance.marks import Marks, holds_watermark
from asymtalker.provenance.origin import version_of
from asymtalker.rollout import Chunk, Course, rollout
from asymtalker.sizing.empty import Network, describe_chunk, describe_parts
from asymtalker.sizing.fit import available_bytes
from asymtalker.sizing.generation import describe_shortage
from asymtalker.timeline import chunk_spans, frames_of_samples
from asymtalker.training.distributed import start, world

PARTS: dict[str, Any] = {
    "transformer": AsymTalkerTransformer3DModel,
    "vae": (AutoencoderKLWan, MotionCodecModel),
    "audio_encoder": AudioEncoder,
    "feature_extractor": Wav2Vec2FeatureExtractor,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}


@dataclass
class AsymTalkerPipelineOutput(BaseOutput):
    """``frames``: ``(F, H, W, 3)`` uint8 RGB at 25 FPS, or a list of F Pillow images."""

    frames: np.ndarray | list[Image.Image]


class AsymTalkerPipeline(DiffusionPipeline):
    """Identity-consistent talking-head video of any length.

    Args:
        transformer: the student (or a teacher, with more steps and guidance).
        vae: the codec: Wan's, with ``latents_mean`` and ``latents_std`` in its config, or one of motion.
        audio_encoder: wav2vec2, or the bundled model's own.
        feature_extractor: says whether the first wants its waveform normalised.
        scheduler: its ``shift`` is the noise-level shift.
        image_encoder: what the CLIP and VTP identity strategies need.
        sample_size: height and width of the frames in pixels; one number for a square.
        chunk_frames: F of the paper.
        continuity_frames: K of the paper.
        num_inference_steps: default steps per chunk.
        guidance_scale: default audio guidance; 1 is none.
        renew_noise: draw fresh noise after every step, as a distilled student expects.
        identity: how the portrait enters the network.
        name: what the checkpoint is called in the tags of the videos it makes.

    Several threads may generate with one pipeline: its networks work for one at a time, on a chunk or a few frames.

    ``version`` tells the checkpoints that are loaded apart, see :func:`asymtalker.provenance.origin.version_of`.
    :meth:`place` moves it to where it runs and fits it to the machine; then ``preview`` is the decoder that shows the
    video, if not the codec, ``processes`` how many make it together, and ``inference`` what it was given.
    """

    model_cpu_offload_seq = "audio_encoder->image_encoder->transformer->vae"
    _optional_components = ("image_encoder",)

    def __init__(
        self,
        transformer: AsymTalkerTransformer3DModel,
        vae: AutoencoderKLWan | MotionCodecModel,
        audio_encoder: AudioEncoder,
        feature_extractor: Wav2Vec2FeatureExtractor,
        scheduler: FlowMatchEulerDiscreteScheduler,
        image_encoder: ImageEncoder | None = None,
        sample_size: int | Sequence[int] = SAMPLE_SIZE,
        chunk_frames: int = 81,
        continuity_frames: int = 5,
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        renew_noise: bool = False,
        identity: IdentityStrategy = "tre",
        name: str = "unnamed",
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            audio_encoder=audio_encoder,
            feature_extractor=feature_extractor,
            scheduler=scheduler,
            image_encoder=image_encoder,
        )
        self.register_to_config(
            sample_size=sample_size,
            chunk_frames=chunk_frames,
            continuity_frames=continuity_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            renew_noise=renew_noise,
            identity=identity,
            name=name,
        )
        self.settings = PipelineSettings(
            sample_size=sample_size if isinstance(sample_size, int) else (sample_size[0], sample_size[1]),
            chunk=ChunkConfig(frames=chunk_frames, continuity_frames=continuity_frames),
            sampler=SamplerConfig(
                num_steps=num_inference_steps,
                shift=scheduler.config["shift"],
                guidance_scale=guidance_scale,
                renew_noise=renew_noise,
            ),
            identity=identity,
            name=name,
        )
        self.version: str | None = None
        self.preview: PreviewDecoder | None = None
        self.processes = 1
        self.inference = InferenceConfig()
        self.turns = Turns()  # at the networks, on which codecs and offloading keep what they are doing
        for part in (transformer, vae, audio_encoder):
            part.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path | None = None, *, torch_dtype: torch.dtype = torch.float32
    ) -> "AsymTalkerPipeline":
        """Load a checkpoint folder, a model of the Hugging Face hub (``owner/name``), or by default the bundled one.

        Raises:
            UserError: if there is no such folder or model, or it is not a whole AsymTalker checkpoint.
        """
        folder = checkpoint_folder(pretrained_model_name_or_path)
        settings = read_index(folder, cls.__name__, PARTS)
        parts: dict[str, Any] = {
            "vae": load_codec_network(folder / "vae", torch_dtype),
            "audio_encoder": load_audio_encoder(folder / "audio_encoder", torch_dtype),
        }
        parts |= {n: load_part(kind, folder / n, torch_dtype) for n, kind in PARTS.items() if n not in parts}
        parts["image_encoder"] = load_image_encoder(settings.get("identity", "tre"), folder / "image_encoder")
        try:
            pipeline = cls(**parts, **settings)
        except TypeError as error:
            raise UserError(f"The checkpoint {folder} has settings that are unknown here: {error}.") from error
        pipeline.version = version_of(folder)
        return pipeline

    def place(self, device: torch.device | str, inference: InferenceConfig | None = None) -> "AsymTalkerPipeline":
        """Move it to where it runs, as ``inference`` says, by default whole; once. Returns itself.

        Under ``torchrun`` (after :func:`~asymtalker.training.distributed.start`) the tokens of a chunk are split over
        all processes.

        Raises:
            UserError: if an option cannot be used here, or the GPU's memory is too small, with what would fit.
        """
        inference, device = inference or InferenceConfig(), torch.device(device)
        check_inference(inference)
        with self._explain_out_of_memory(self.settings.size, inference):
            if inference.fp8:
                to_fp8(self.transformer, device if inference.offload == "none" else torch.device("cpu"))
            fit(self, device, inference)
            with quiet():
                if inference.preview is not None:
                    dtype = self.transformer.dtype if device.type == "cuda" else torch.float32
                    self.preview = load_preview(inference.preview, self.vae).to(device, dtype)
                if world().size > 1:
                    split_tokens(self.transformer, world().size)
                    self.processes = world().size
        self.inference = inference
        return self

    def describe(self, size: tuple[int, int] | None = None, steps: int | None = None) -> Network:
        """What costs, memory and the stock pipeline depend on, as plain JSON values.

        Args:
            size: height and width of the frames in pixels, by default the checkpoint's.
            steps: of a chunk, by default the checkpoint's.
        """
        settings, autocast = self.settings, self._autocast
        return describe_parts(self.transformer, self.vae, self.audio_encoder) | {
            "size": list(size or settings.size),
            **describe_chunk(settings.chunk, preview=self.preview is not None),
            "passes": (steps or settings.sampler.num_steps) * (1 if settings.sampler.guidance_scale == 1 else 2),
            "shift": settings.sampler.shift,
            "device": self._execution_device.type,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "codec_dtype": str(self.vae.dtype).removeprefix("torch."),
            "autocast": str(autocast).removeprefix("torch.") if autocast else None,
        }

    @called_with(FramesRequest)
    def __call__(self, request: FramesRequest) -> AsymTalkerPipelineOutput:
        """All frames at once; for long sound use :meth:`generate_to_file` or :meth:`stream`.

        Args:
            request: its picture, sound and options, :class:`asymtalker.generate.inputs.FramesRequest`.

        Returns:
            ``frames``, ``ceil(n / 640)`` of them for ``n`` samples at 16 kHz.

        Raises:
            UserError: if an input cannot be used.
        """
        frames = np.concatenate(list(self._stream(request)))
        return AsymTalkerPipelineOutput(
            frames=frames if request.output_type == "np" else [Image.fromarray(frame) for frame in frames]
        )

    @called_with(Request)
    def stream(self, request: Request) -> Iterator[np.ndarray]:
        """The frames of each chunk ``(F, H, W, 3)`` uint8 as it is made, of a request's picture, sound and options,
        :class:`asymtalker.generate.inputs.Request`."""
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[np.ndarray]:
        inputs, sampler = self.inputs(request), self.sampler(request)
        num_frames, done = frames_of_samples(inputs.audio.num_samples), 0
        request.progress(0, num_frames)
        for fetch in self._frames(request, inputs, sampler):
            frames = np.stack(list(self._seen(inputs, fetch())))
            yield frames
            done += len(frames)
            request.progress(done, num_frames)

    @called_with(FileRequest)
    def generate_to_file(self, request: FileRequest) -> Path:
        """Write an MP4 (H.264 and the original sound), chunk by chunk, in memory that does not grow with length.

        A second thread encodes a chunk for the file while the next one is made; of several processes the main one
        writes. When it is stopped (Ctrl-C, an error, a full disk) the part made so far is kept as a playable file and
        said. The file is signed (C2PA) and its frames are marked as ``disclosure`` says.

        Args:
            request: its picture, sound, output and options, :class:`asymtalker.generate.inputs.FileRequest`.

        Returns:
            The path of the file.

        Raises:
            UserError: if an input cannot be used or the output not be written.
        """
        output = check_output(request.output)
        check_not_input(output, request.image, request.audio)
        signer = Signer(request.disclosure, request.say)
        sampler = self.sampler(request)
        inputs = self.inputs(request)
        if self.processes > 1 and not world().main:
            deque(self._chunks(request, inputs, sampler), maxlen=0)  # whose frames nobody sees
            return output
        num_frames, done = frames_of_samples(inputs.audio.num_samples), 0
        request.progress(0, num_frames)
        track, size = inputs.audio.track(), inputs.seen.shape[:2]
        origin = origin_of(request, inputs.sources, self.settings.name, self.version)
        origin = replace(origin, watermarked=holds_watermark(request.disclosure, size), size="{}x{}".format(*size))
        marks = Marks(request.disclosure, origin.number, size)

        def sign(source: Path, signed: Path) -> None:
            made = Made.of(inputs.sources.picture, inputs.sources.sound, writer.seconds, done == num_frames)
            signer.sign(source, signed, origin, made)

        writer = VideoWriter(
            output,
            size,
            audio_rate=track.rate,
            audio_channels=track.channels,
            metadata=origin.tags(),
            finish=sign,
            live=request.live,
        )

        def write(fetch: Callable[[], np.ndarray]) -> None:
            nonlocal done  # in a thread, which Ctrl-C does not reach: picture and sound stay equally long
            for frame in self._seen(inputs, fetch()):
                writer.write(marks.draw(frame)[None])
                writer.write_audio(track.take_until(writer.seconds))
                done += 1
            request.progress(done, num_frames)

        try:
            with writer:
                with Background(write) as writing:
                    for fetch in self._frames(request, inputs, sampler):
                        writing.put(fetch)
                writer.write_audio(track.take_until(None))
        except BaseException:
            if writer.kept_seconds:
                request.say(f"Stopped early: the first {writer.kept_seconds:.1f} s are kept in {output}.")
            raise
        return output

    def inputs(self, request: Request) -> Inputs:
        """Picture and sound of a request, read and checked; and that tokens divide the size that is made."""
        size, fit = request.sizes(self.settings.size, self.moves_pictures)
        cells = codec_of(self.vae, control=request.control).cells(size, self.transformer.config.patch_size)
        check_split(self.transformer, cells, self.processes)
        return request.read or read_inputs(request, size, fit)

    def _seen(self, inputs: Inputs, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Frames that were made, one by one, those of a model that makes pixels put back into the whole picture."""
        for frame in frames:
            if inputs.whole is not None and not self.moves_pictures:
                frame = paste_back(inputs.whole, frame, inputs.portrait.placement)
            yield frame

    def sampler(self, request: Request) -> SamplerConfig:
        """How the checkpoint samples, but for what the request says otherwise."""
        sampler = self.settings.sampler
        if request.num_inference_steps is not None:
            sampler = replace(sampler, num_steps=request.num_inference_steps)
        if request.guidance_scale is not None:
            sampler = replace(sampler, guidance_scale=request.guidance_scale)
        check_sampling(sampler.num_steps, sampler.guidance_scale)
        return sampler

    @property
    def _autocast(self) -> torch.dtype | None:
        """Of float32 weights the type they are computed in; other weights run in their own precision."""
        if self.transformer.dtype != torch.float32:
            return None
        return choose_precision(self._execution_device, self.inference.precision)

    def described(self) -> str:
        """Where it runs and in which precision, for a person."""
        return describe_precision(self._execution_device, self._autocast or self.transformer.dtype)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._execution_device.type, self._autocast, enabled=self._autocast is not None)

    @contextlib.contextmanager
    def _explain_out_of_memory(
        self, size: tuple[int, int], inference: InferenceConfig | None = None
    ) -> Iterator[None]:
        """Say in one sentence what would fit where the GPU's memory gets full by frames of ``size``.

        Raises:
            UserError: of the sentence.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            others = [part for name, part in self.components.items() if name != "transformer"] + [self.preview]
            beside = sum(p.nbytes for part in others if isinstance(part, nn.Module) for p in part.parameters())
            available = available_bytes(self._execution_device)
            said = describe_shortage(self.describe(size), beside, inference or self.inference, available, world().size)
            raise UserError(said) from error

    @contextlib.contextmanager
    def _working(self, size: tuple[int, int], *, alone: bool = True) -> Iterator[None]:
        """The networks at work on frames of ``size``, without gradient, for one thread at a time unless it need not be
        ``alone``."""
        with (
            self.turns if alone else self.turns.beside(),
            self._explain_out_of_memory(size),
            torch.inference_mode(),
            self._precision(),
            unshared() if self.moves_pictures else contextlib.nullcontext(),  # of which a latent frame is one token
        ):
            yield

    def _frames(self, request: Request, inputs: Inputs, sampler: SamplerConfig) -> Iterator[Callable[[], np.ndarray]]:
        """The frames of each chunk of :meth:`_chunks`, as :meth:`shown` gives them."""
        return (fetch for made in self._chunks(request, inputs, sampler) for fetch in self.shown(made, inputs))

    def shown(self, made: Chunk, inputs: Inputs) -> Iterator[Callable[[], np.ndarray]]:
        """The frames ``(F, H, W, 3)`` of a chunk, all or a few at a time, on their way from the GPU, in memory that
        must not be kept."""
        shown, alone = made.shown(), made.preview is not None or not made.codec.memoryless
        while True:
            with self._working(inputs.portrait.picture.shape[:2], alone=alone):
                pixels = next(shown, None)
                if pixels is None:
                    return
                fetch = fetch_frames(pixels)
            yield fetch

    @property
    def moves_pictures(self) -> bool:
        """Whether its codec moves the portrait itself, so that it can be shown whole at any size."""
        return isinstance(self.vae, MotionCodecModel)

    def _chunks(self, request: Request, inputs: Inputs, sampler: SamplerConfig) -> Iterator[Chunk]:
        """The chunks of a video, each decoded when the next one or the caller needs it."""
        chunk, num_frames = self.settings.chunk, frames_of_samples(inputs.audio.num_samples)
        spans = chunk_spans(num_frames, chunk.frames, chunk.continuity_frames)
        return self.chunks(request, inputs, Course(self.features(inputs.audio), spans, chunk), sampler)

    def features(self, source: SampleSource) -> AudioFeatures:
        """Features of a sound by its frames."""
        return AudioFeatures(self.audio_encoder, self.feature_extractor, source, self._autocast)

    def chunks(self, request: Request, inputs: Inputs, course: Course, sampler: SamplerConfig) -> Iterator[Chunk]:
        """The chunks of a video that goes as ``course`` says; its sound need not be the request's."""
        picture = inputs.portrait.picture
        size, device = picture.shape[:2], self._execution_device
        codec = codec_of(self.vae, self._autocast, request.control)
        if isinstance(codec, MotionCodec):
            for seen, points in inputs.faces():
                codec.note_face(seen, points)
        with self._working(size):
            identity = encode_identity(
                self.settings.identity,
                to_pixels(picture[None]).to(device),
                course.chunk.frames,
                codec=codec,
                image_encoder=self.image_encoder,
            )
            chunks = rollout(
                self.transformer,
                codec,
                course.features,
                identity,
                course.spans,
                chunk=course.chunk,
                size=size,
                sampler=sampler,
                seed=request.seed,
                portrait=to_pixels(inputs.seen[None]).to(device) if self.moves_pictures else None,
                preview=self.preview,
                grows=course.ready is not None,
                closing=Blinks(request.seed).closing if self.moves_pictures and request.control.blinks else None,
            )
        while True:
            if course.ready is not None:
                course.ready()
            # Entered anew for each chunk: a generator that is paused inside would leave these on for its caller.
            with self._working(size):
                made = next(chunks, None)
            if made is None:
                return
            yield made


def load_pipeline(
    model: str | Path | None, device: str, inference: InferenceConfig | None = None
) -> AsymTalkerPipeline:
    """The pipeline on a device (``"auto"``: a GPU if there is one), for commands.

    On a GPU that computes in bfloat16 weights are held in it, save for norms and modulation. Under ``torchrun`` the
    processes work together.

    Raises:
        UserError: if the checkpoint, the device or an option cannot be used.
    """
    inference = inference or InferenceConfig()
    check_inference(inference)
    where = start(device)
    folder = checkpoint_folder(model)  # first, as what follows takes the bar off its download too
    hide_bars()
    dtype = weights_precision(where, inference.precision)
    pipeline = AsymTalkerPipeline.from_pretrained(folder, torch_dtype=dtype)
    return pipeline.place(where, inference)
