"""``AsymTalkerPipeline``: a portrait and a voice in, a talking video out, chunk by chunk (section 3.2).

A checkpoint is a diffusers folder: ``model_index.json``, ``transformer/``, ``vae/``, ``audio_encoder/``,
``feature_extractor/``, ``scheduler/`` and, for CLIP and VTP, ``image_encoder/``, weights as safetensors only.
"""

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
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker.codec import Codec, fetch_frames, latent_size, to_pixels
from asymtalker.config import ChunkConfig, IdentityStrategy, InferenceConfig, SamplerConfig
from asymtalker.errors import UserError
from asymtalker.generate.background import Background
from asymtalker.generate.folder import checkpoint_folder, read_index
from asymtalker.generate.inputs import Picture, Sound, check_not_input, read_image
from asymtalker.generate.placement import check_inference, check_split, place
from asymtalker.generate.provenance import provenance
from asymtalker.media.portrait import (
    Placement,
    Portrait,
    choose_face,
    crop_frame,
    even_picture,
    find_faces,
    paste_back,
    turned_by,
)
from asymtalker.media.read import AudioFile, AudioSamples, AudioSource
from asymtalker.media.video import VideoWriter, check_output
from asymtalker.models.audio import AudioFeatures
from asymtalker.models.identity import ImageEncoder, encode_identity, load_image_encoder
from asymtalker.models.loading import hide_bars, load_part
from asymtalker.models.precision import choose_precision, describe_precision, weights_precision
from asymtalker.models.taehv import PreviewDecoder
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Chunk, rollout
from asymtalker.sizing.generation import fullness_said
from asymtalker.timeline import chunk_spans, frames_of_samples
from asymtalker.training.distributed import start, world

Progress = Callable[[int, int], None]

PARTS: dict[str, Any] = {
    "transformer": AsymTalkerTransformer3DModel,
    "vae": AutoencoderKLWan,
    "audio_encoder": Wav2Vec2Model,
    "feature_extractor": Wav2Vec2FeatureExtractor,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}
MAX_VIDEO_SIDE = 1920
"""Longest side of the full picture that generated frames are pasted back into."""


@dataclass
class AsymTalkerPipelineOutput(BaseOutput):
    """``frames``: ``(F, H, W, 3)`` uint8 RGB at 25 FPS, or a list of F Pillow images."""

    frames: np.ndarray | list[Image.Image]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Inputs, read and checked."""

    portrait: Portrait
    full_picture: np.ndarray
    audio: AudioSource


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """What ``model_index.json`` says beside the parts."""

    sample_size: int | tuple[int, int]
    chunk: ChunkConfig
    sampler: SamplerConfig
    identity: IdentityStrategy
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        size = self.sample_size
        return (size, size) if isinstance(size, int) else size


def _say_nothing(done: int, total: int) -> None:
    """The progress of a caller who wants to hear of none."""


class AsymTalkerPipeline(DiffusionPipeline):
    """Identity-consistent talking-head video of any length.

    Args:
        transformer: the student (or a teacher, with more steps and guidance).
        vae: the codec, with ``latents_mean`` and ``latents_std`` in its config.
        audio_encoder: wav2vec2.
        feature_extractor: normalises the waveform for it.
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

    :func:`asymtalker.generate.placement.place` moves it to where it runs and fits it to the machine; then ``preview``
    is the decoder that shows the video, if not the codec, ``processes`` how many make it together, and ``inference``
    what it was given.
    """

    model_cpu_offload_seq = "audio_encoder->image_encoder->transformer->vae"
    _optional_components = ("image_encoder",)

    def __init__(
        self,
        transformer: AsymTalkerTransformer3DModel,
        vae: AutoencoderKLWan,
        audio_encoder: Wav2Vec2Model,
        feature_extractor: Wav2Vec2FeatureExtractor,
        scheduler: FlowMatchEulerDiscreteScheduler,
        image_encoder: ImageEncoder | None = None,
        sample_size: int | Sequence[int] = 256,
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
        self.preview: PreviewDecoder | None = None
        self.processes = 1
        self.inference = InferenceConfig()
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
        parts = {name: load_part(kind, folder / name, torch_dtype) for name, kind in PARTS.items()}
        parts["image_encoder"] = load_image_encoder(settings.get("identity", "tre"), folder / "image_encoder")
        try:
            return cls(**parts, **settings)
        except TypeError as error:
            raise UserError(f"The checkpoint {folder} has settings that are unknown here: {error}.") from error

    def __call__(
        self,
        image: Picture,
        audio: Sound,
        *,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        face: int | None = None,
        size: tuple[int, int] | None = None,
        output_type: str = "np",
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
    ) -> AsymTalkerPipelineOutput:
        """All frames at once; for long sound use :meth:`generate_to_file` or :meth:`stream`.

        Args:
            image: path, Pillow image, or ``H W 3`` uint8 array, showing a face.
            audio: path of anything with sound, or ``(samples, rate)``.
            seed: the same seed gives the same video on one machine.
            num_inference_steps: per chunk; by default what the checkpoint was made for.
            guidance_scale: audio guidance, 1 is none; by default what the checkpoint was made for.
            face: which face, counted from 1, the largest (default).
            size: height and width of the frames in pixels; by default the checkpoint's.
            output_type: ``"np"`` or ``"pil"``.
            progress: called with frames done and frames in all.
            say: called with a sentence when there is something to know.

        Returns:
            ``frames``, ``ceil(n / 640)`` of them for ``n`` samples at 16 kHz.

        Raises:
            UserError: if an input cannot be used.
        """
        if output_type not in ("np", "pil"):
            raise ValueError(f"output_type must be 'np' or 'pil', got {output_type!r}")
        job = self._prepare(image, audio, face, say, size)
        sampler = self._sampler(num_inference_steps, guidance_scale)
        parts = self.animate(job.portrait.picture, job.audio, seed=seed, sampler=sampler, progress=progress)
        frames = np.concatenate(list(parts))
        return AsymTalkerPipelineOutput(
            frames=frames if output_type == "np" else [Image.fromarray(frame) for frame in frames]
        )

    def stream(
        self,
        image: Picture,
        audio: Sound,
        *,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        face: int | None = None,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
    ) -> Iterator[np.ndarray]:
        """The frames of each chunk ``(F, H, W, 3)`` uint8 as it is made. Arguments as in :meth:`__call__`."""
        job = self._prepare(image, audio, face, say, size)
        sampler = self._sampler(num_inference_steps, guidance_scale)
        return self.animate(job.portrait.picture, job.audio, seed=seed, sampler=sampler, progress=progress)

    def generate_to_file(
        self,
        image: Picture,
        audio: Sound,
        output: str | Path,
        *,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        face: int | None = None,
        size: tuple[int, int] | None = None,
        paste: bool = False,
        framed: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
    ) -> Path:
        """Write an MP4 (H.264 and the original sound), chunk by chunk, in memory that does not grow with length.

        A second thread encodes a chunk for the file while the next one is made; of several processes the main one
        writes. When it is stopped (Ctrl-C, an error, a full disk) the part made so far is kept as a playable file and
        said.

        Args:
            image: see :meth:`__call__`, as for all arguments not listed here.
            audio: its own sound, mono or stereo, goes into the file.
            output: path of the MP4 file; its folder is made, an existing file is replaced.
            seed: see above.
            num_inference_steps: see above.
            guidance_scale: see above.
            face: see above.
            size: see above.
            paste: put the generated crop back into the full picture instead of writing it alone.
            framed: the picture is the crop around a face already, such as a frame of a corpus.
            progress: see above; called by the thread that writes, of frames written.
            say: see above.

        Returns:
            The path of the file.

        Raises:
            UserError: if an input cannot be used or the output not be written.
        """
        output = check_output(output)
        check_not_input(output, image, audio)
        sampler = self._sampler(num_inference_steps, guidance_scale)
        job = self._prepare(image, audio, face, say, size, MAX_VIDEO_SIDE if paste else None, framed)
        if self.processes > 1 and not world().main:
            deque(self._chunks(job.portrait.picture, job.audio, seed, sampler), maxlen=0)  # whose frames nobody sees
            return output
        num_frames, done, progress = frames_of_samples(job.audio.num_samples), 0, progress or _say_nothing
        progress(0, num_frames)
        track = job.audio.track()
        writer = VideoWriter(
            output,
            job.full_picture.shape[:2] if paste else job.portrait.picture.shape[:2],
            audio_rate=track.rate,
            audio_channels=track.channels,
            metadata=provenance(self.settings.name, seed, image, audio).tags(),
        )

        def write(fetch: Callable[[], np.ndarray]) -> None:
            nonlocal done  # in a thread, which Ctrl-C does not reach: picture and sound stay equally long
            for frame in fetch():
                if paste:
                    frame = paste_back(job.full_picture, frame, job.portrait.placement)
                writer.write(frame[None])
                writer.write_audio(track.take_until(writer.seconds))
                done += 1
            progress(done, num_frames)

        try:
            with writer:
                with Background(write) as writing:
                    for fetch in self._frames(job.portrait.picture, job.audio, seed, sampler):
                        writing.put(fetch)
                writer.write_audio(track.take_until(None))
        except BaseException:
            if writer.kept_seconds:
                say(f"Stopped early: the first {writer.kept_seconds:.1f} s are kept in {output}.")
            raise
        return output

    def _prepare(
        self,
        image: Picture,
        audio: Sound,
        face: int | None,
        say: Callable[[str], None],
        size: tuple[int, int] | None,
        longest: int | None = None,
        framed: bool = False,
    ) -> _Job:
        """Read and check the inputs; with ``longest`` the full picture is made fit for video."""
        picture, name = read_image(image)
        source = AudioFile(audio) if isinstance(audio, str | Path) else AudioSamples(*audio)
        size = self._checked_size(size)
        if framed:
            if picture.shape[:2] != size:
                found, wanted = ("x".join(map(str, sides)) for sides in (picture.shape[:2], size))
                raise UserError(f"{name} is {found} (height x width), but the model makes {wanted}: scale it.")
            return _Job(portrait=Portrait(picture, Placement(0, 0, *size)), full_picture=picture, audio=source)
        if longest is not None:
            picture = even_picture(picture, longest)
        faces = find_faces(picture)
        turn = turned_by(picture) if not faces else None
        if turn is not None:
            raise UserError(f"The face in {name} is not upright: turn the picture by {turn} degrees clockwise.")
        box = choose_face(faces, face, name, say)
        return _Job(portrait=crop_frame(picture, box, size), full_picture=picture, audio=source)

    def _checked_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The height and width to make, by default the checkpoint's, after checking that tokens divide them."""
        size = size or self.settings.size
        cells = latent_size(size, self.vae.config.scale_factor_spatial, self.transformer.config.patch_size)
        check_split(self.transformer, cells, self.processes)
        return size

    def _sampler(self, num_inference_steps: int | None, guidance_scale: float | None) -> SamplerConfig:
        sampler = self.settings.sampler
        if num_inference_steps is not None:
            sampler = replace(sampler, num_steps=num_inference_steps)
        if guidance_scale is not None:
            sampler = replace(sampler, guidance_scale=guidance_scale)
        if sampler.num_steps < 1:
            raise UserError(f"The number of steps must be at least 1, not {sampler.num_steps}.")
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

    def animate(
        self,
        picture: np.ndarray,
        audio: AudioSource,
        *,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of each chunk ``(F, H, W, 3)`` uint8 of a picture that is framed already.

        Args:
            picture: ``(H, W, 3)`` uint8; the frames are as large.
            audio: the sound.
            seed: the same seed gives the same video on one machine.
            sampler: by default what the checkpoint was made for.
            progress: called with frames done and frames in all.

        Raises:
            UserError: if the GPU's memory is too small, with what would fit.
        """
        num_frames, done, progress = frames_of_samples(audio.num_samples), 0, progress or _say_nothing
        progress(0, num_frames)
        for fetch in self._frames(picture, audio, seed, sampler or self.settings.sampler):
            frames = fetch().copy()  # what a GPU sent lies in memory that must not be kept
            yield frames
            done += len(frames)
            progress(done, num_frames)

    def _frames(
        self, picture: np.ndarray, audio: AudioSource, seed: int, sampler: SamplerConfig
    ) -> Iterator[Callable[[], np.ndarray]]:
        """The frames of each chunk of :meth:`_chunks`, on their way from the GPU."""
        for made in self._chunks(picture, audio, seed, sampler):
            with fullness_said(self, picture.shape[:2]), torch.inference_mode(), self._precision():
                fetch = fetch_frames(made.new_pixels)
            yield fetch

    def _chunks(self, picture: np.ndarray, audio: AudioSource, seed: int, sampler: SamplerConfig) -> Iterator[Chunk]:
        """The chunks of a picture that is framed already, each decoded when the next one or the caller needs it."""
        chunk = self.settings.chunk
        codec = Codec(self.vae, self._autocast)
        features = AudioFeatures(self.audio_encoder, self.feature_extractor, audio, self._autocast)
        with fullness_said(self, picture.shape[:2]), torch.inference_mode(), self._precision():
            identity = encode_identity(
                self.settings.identity,
                to_pixels(picture[None]).to(self._execution_device),
                chunk.frames,
                codec=codec,
                image_encoder=self.image_encoder,
            )
            chunks = rollout(
                self.transformer,
                codec,
                features,
                identity,
                chunk_spans(frames_of_samples(audio.num_samples), chunk.frames, chunk.continuity_frames),
                chunk=chunk,
                size=picture.shape[:2],
                sampler=sampler,
                seed=seed,
                preview=self.preview,
            )
        while True:
            # Entered anew for each chunk: a generator that is paused inside would leave these on for its caller.
            with fullness_said(self, picture.shape[:2]), torch.inference_mode(), self._precision():
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
    with fullness_said(pipeline, pipeline.settings.size, inference):
        return place(pipeline, where, inference)
