"""What is known of the command lines of the six systems that the paper compares with, one :class:`Baseline` each.

Settings are those the authors document: the command of the README or, where that names a script, of the script.
Comments name the repository, file and commit of the stored copy that a fact was read from; where upstream's file was
not at hand, a fork's copy of it is named. "Not verified" marks the rest. None of the commands was run against the
real systems by us.

A command runs in a work folder of its own in which the checkout's files appear as links (see
:mod:`asymtalker.evaluate.baselines.run`), so paths relative to the checkout hold and what is written stays apart.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PROMPT = "A person is talking to the camera."
"""For systems that want a text and whose authors give none but the descriptions of their own examples. It is ours."""
INPUT = "asymtalker_input.txt"
"""Name of the input file in the work folder, for commands that read one."""
OUTPUT = "asymtalker_output"
"""Name of the folder or the video, without ending, that commands are told to write in the work folder."""


@dataclass(frozen=True)
class Chunk:
    """How a system cuts a video into pieces that are denoised together; frames of its own rate."""

    first: int
    """Frames of the first piece."""
    step: int
    """Frames that each later piece adds; the first frame of a piece is one of ``first + k * step``."""


@dataclass(frozen=True)
class Crop:
    """Where the talking head is in a frame that shows more, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How a talking-head system is run for one picture and one recording."""

    title: str
    origin: str
    """Repository on GitHub."""
    licence: str
    """Of the code; weights may have terms of their own."""
    fps: int
    script: str
    """The entry script, by which a checkout is recognised."""
    needs: tuple[str, ...] = ()
    """Weights and configurations that the command names, relative to the checkout."""
    command: str
    """As one would type it, over several lines. ``{python}``, ``{image}``, ``{audio}``, ``{frames}`` (the recording's
    length at 25 a second), ``{prompt}``, ``{input}`` and ``{output}`` are filled in."""
    prepare: Callable[[Path, str, str], None] | None = None
    """Writes the input file into a work folder; told the names of the picture and the recording in it."""
    result: str
    """Pattern of the video in the work folder; of several the last by name."""
    writes: tuple[str, ...] = ()
    """Names of the checkout in which the command would write: they are not linked into the work folder."""
    chunk: Callable[[Path], Chunk | None] = lambda image: None
    """The pieces of the video made of a picture; ``None`` if it is not made in pieces."""
    crop: Crop | None = None
    silent: bool = False
    """Leaves adding the sound to the caller."""
    wav_only: bool = False
    prompt: str | None = None
    """The text given with every picture."""

    @property
    def arguments(self) -> list[str]:
        """The command's words, with the placeholders."""
        return shlex.split(self.command)


def _every(first: int, step: int) -> Callable[[Path], Chunk]:
    return lambda image: Chunk(first, step)


# SadTalker. README.md (OpenTalker/SadTalker @ d2fe0c8), "Animating a portrait image from default config": the command.
# inference.py @ 002631b: all flags; the video is RESULT_DIR/TIME.mp4, written at the end. The default --preprocess
# crop keeps the face's surroundings only. src/facerender/animate.py @ 002631b: 25 fps; coefficients are made per frame
# and rendered frame by frame: no pieces.
SADTALKER = Baseline(
    title="SadTalker",
    origin="OpenTalker/SadTalker",
    licence="Apache-2.0",
    fps=25,
    script="inference.py",
    command="""
        {python} inference.py --driven_audio {audio} --source_image {image} --enhancer gfpgan --result_dir {output}
    """,
    result=f"{OUTPUT}/*.mp4",
)


def _write_aniportrait(work: Path, image: str, audio: str) -> None:
    """The checkout's own configuration with other test cases, so that paths of weights changed in it hold."""
    lines = (work / "configs/prompts/animation_audio.yaml").read_text(encoding="utf-8").splitlines()
    kept, inside = [], False
    for line in lines:
        inside = line.startswith("test_cases:") or (inside and line[:1] in ("", " ", "#", "-"))
        if not inside:
            kept.append(line)
    cases = ["test_cases:", f"  {json.dumps(image)}:", f"    - {json.dumps(audio)}"]
    (work / INPUT).write_text("\n".join([*kept, *cases]) + "\n", encoding="utf-8")


# AniPortrait. README.md (Zejun-Yang/AniPortrait @ 03558bd), "Audio driven": the command, with -acc (every third frame
# is denoised, FILM makes the others). scripts/audio2vid.py @ 07d51ec and 624b53c: 30 fps; writes
# output/DATE/TIME--.../NAME.mp4 in the current folder, after NAME_noaudio.mp4, which it removes. A frame shows
# picture, mesh and result side by side: torchvision's make_grid (src/utils/util.py @ 8c2b5db) with its default 2
# pixels around each 512 x 512 picture, hence the crop. Windows of 16 frames are averaged at every step
# (src/pipelines/pipeline_pose2vid_long.py @ 4688b92): no pieces. configs/prompts/animation_audio.yaml @ ca0dd62 leaves
# pose_temp out, and then a fork's copy of the newest script (AiHumanVoice/AniPortrait @ 604fc08) fails on recordings
# of up to 5 s; upstream's newest script not verified.
ANIPORTRAIT = Baseline(
    title="AniPortrait",
    origin="Zejun-Yang/AniPortrait",
    licence="Apache-2.0",
    fps=30,
    script="scripts/audio2vid.py",
    needs=("configs/prompts/animation_audio.yaml",),
    command="""
        {python} -m scripts.audio2vid --config {input} -W 512 -H 512 -acc
    """,
    prepare=_write_aniportrait,
    result="output/*/*/*.mp4",
    writes=("output",),
    crop=Crop(left=3 * 2 + 2 * 512, top=2, width=512, height=512),
)


def _write_line(work: Path, image: str, audio: str) -> None:
    (work / INPUT).write_text(f"{PROMPT}@@{image}@@{audio}\n", encoding="utf-8")


def _omniavatar_chunk(image: Path) -> Chunk:
    """As many frames as fit 30000 tokens at the nearest of three sizes, of which 13 overlap."""
    with Image.open(image) as picture:
        ratio = picture.height / picture.width
    height, width = min(((400, 720), (720, 720), (720, 400)), key=lambda size: abs(size[0] / size[1] - ratio))
    fit = 30_000 * 16 * 16 * 4 // (height * width)
    frames = fit // 4 * 4 + 1 if fit % 4 else fit - 3
    return Chunk(frames, frames - 13)


# OmniAvatar, 14B. README.md (Omni-Avatar/OmniAvatar @ 36e3e6c): the command and "[prompt]@@[img_path]@@[audio_path]".
# From forks' copies: scripts/inference.py and configs/inference.yaml (ydai94/omniavatar-replicate @ db639c8) for 25
# fps, 50 steps, 30000 tokens, overlap 13 and demo_out/EXPERIMENT/res_.../result_000_000_wav.mp4 in the current folder
# (OmniAvatar/utils/io_utils.py @ b421d01 there). The video begins with the picture and 0.3 s of silence, so its own
# sound is 0.34 s late against the recording. Not verified: that the configuration that comes with the weights
# (random_prefix_frames) asks for the overlap, and how upstream's script finds the package, hence PYTHONPATH. torchrun
# is python -m torch.distributed.run.
OMNIAVATAR = Baseline(
    title="OmniAvatar-14B",
    origin="Omni-Avatar/OmniAvatar",
    licence="Apache-2.0",
    fps=25,
    script="scripts/inference.py",
    needs=("configs/inference.yaml",),
    command="""
        env PYTHONPATH=. {python} -m torch.distributed.run --standalone --nproc_per_node=1 scripts/inference.py
        --config configs/inference.yaml --input_file {input}
    """,
    prepare=_write_line,
    result="demo_out/*/*/result_000_000*.mp4",
    writes=("demo_out",),
    chunk=_omniavatar_chunk,
    prompt=PROMPT,
)

# Hallo3. README.md (fudan-generative-vision/hallo3 @ 31b87a2): scripts/inference_long_batch.sh INPUT OUTPUT; a picture
# of 1:1 or 3:2, WAV, English. From a fork's copy of the checkout (wangshaojie1995/hallo3 @ 6eb740a): what that script
# runs, with a random seed where we fix one; the same kind of line as OmniAvatar's (examples/inference/input.txt); 25
# fps (configs/inference.yaml); hallo3/sample_video.py: windows of 49 frames of which the first 2 are dropped, and
# OUTPUT/IMAGE-AUDIO-seed_N/000000_with_audio.mp4.
HALLO3 = Baseline(
    title="Hallo3",
    origin="fudan-generative-vision/hallo3",
    licence="MIT; built on CogVideoX-5B, whose terms hold too",
    fps=25,
    script="hallo3/sample_video.py",
    needs=("configs/cogvideox_5b_i2v_s2.yaml", "configs/inference.yaml"),
    command="""
        env WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 {python} hallo3/sample_video.py
        --base ./configs/cogvideox_5b_i2v_s2.yaml ./configs/inference.yaml --seed 42 --input-file {input}
        --output-dir {output}
    """,
    prepare=_write_line,
    result=f"{OUTPUT}/*/000000_with_audio.mp4",
    chunk=_every(47, 47),
    wav_only=True,
    prompt=PROMPT,
)

# StableAvatar, 1.3B. inference.sh (Francis-Rings/StableAvatar @ 9a54c27), which README.md @ 479c2a6 names: the
# command. inference.py @ 41dc1e4: all flags; 25 fps; OUTPUT_DIR/video_without_audio.mp4, to which the README adds the
# sound. All latents are denoised together, windows of 81 frames blended at every step (README, "sliding-window"; the
# pipeline's code not verified): no pieces.
STABLEAVATAR = Baseline(
    title="StableAvatar-1.3B",
    origin="Francis-Rings/StableAvatar",
    licence="MIT",
    fps=25,
    script="inference.py",
    needs=(
        "deepspeed_config/wan2.1/wan_civitai.yaml",
        "checkpoints/Wan2.1-Fun-V1.1-1.3B-InP",
        "checkpoints/StableAvatar-1.3B/transformer3d-square.pt",
        "checkpoints/wav2vec2-base-960h",
    ),
    command="""
        env TOKENIZERS_PARALLELISM=false {python} inference.py --config_path=deepspeed_config/wan2.1/wan_civitai.yaml
        --pretrained_model_name_or_path=checkpoints/Wan2.1-Fun-V1.1-1.3B-InP
        --transformer_path=checkpoints/StableAvatar-1.3B/transformer3d-square.pt
        --pretrained_wav2vec_path=checkpoints/wav2vec2-base-960h --validation_reference_path={image}
        --validation_driven_audio_path={audio} --output_dir={output} --validation_prompts={prompt} --seed=42
        --ulysses_degree=1 --ring_degree=1 --motion_frame=25 --sample_steps=50 --width=512 --height=512
        --overlap_window_length=5 --clip_sample_n_frames=81 --GPU_memory_mode=model_full_load
        --sample_text_guide_scale=3.0 --sample_audio_guide_scale=5.0
    """,
    result=f"{OUTPUT}/video_without_audio.mp4",
    silent=True,
    prompt=PROMPT,
)


def _write_infinitetalk(work: Path, image: str, audio: str) -> None:
    case = {"prompt": PROMPT, "cond_video": image, "cond_audio": {"person1": audio}}
    (work / INPUT).write_text(json.dumps(case, indent=2) + "\n", encoding="utf-8")


# InfiniteTalk. README.md of a fork's copy (Kocherzhou/InfiniteTalk @ 85c9163), "Run with single GPU": the command, and
# --max_frame_num, whose default of 1000 would end every video at 40 s. generate_infinitetalk.py
# (MeiGen-AI/InfiniteTalk @ a1aa6e9): all flags, SAVE_FILE.mp4. The input's form: that file, and
# examples/single_example_image.json of perfectbullet/InfiniteTalk @ 019ed3f. wan/multitalk.py @ a1aa6e9: pieces of 81
# frames, of which the 9 motion frames of each later one are dropped; recordings of 81 frames (3.24 s) and less are
# refused. 25 fps: its audio embedding assumes it (save_video_ffmpeg's default not verified).
INFINITETALK = Baseline(
    title="InfiniteTalk",
    origin="MeiGen-AI/InfiniteTalk",
    licence="Apache-2.0",
    fps=25,
    script="generate_infinitetalk.py",
    needs=(
        "weights/Wan2.1-I2V-14B-480P",
        "weights/chinese-wav2vec2-base",
        "weights/InfiniteTalk/single/infinitetalk.safetensors",
    ),
    command="""
        {python} generate_infinitetalk.py --ckpt_dir weights/Wan2.1-I2V-14B-480P
        --wav2vec_dir weights/chinese-wav2vec2-base
        --infinitetalk_dir weights/InfiniteTalk/single/infinitetalk.safetensors --input_json {input}
        --size infinitetalk-480 --sample_steps 40 --mode streaming --motion_frame 9 --max_frame_num {frames}
        --save_file {output}
    """,
    prepare=_write_infinitetalk,
    result=f"{OUTPUT}.mp4",
    writes=("save_audio", "tmp"),
    chunk=_every(81, 72),
    prompt=PROMPT,
)

BASELINES = {
    "sadtalker": SADTALKER,
    "aniportrait": ANIPORTRAIT,
    "omniavatar": OMNIAVATAR,
    "hallo3": HALLO3,
    "stableavatar": STABLEAVATAR,
    "infinitetalk": INFINITETALK,
}
"""By the name that ``asymtalker baseline --method`` takes."""
