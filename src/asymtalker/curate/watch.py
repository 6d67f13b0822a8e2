"""Stages 1 to 3 of one video, which is read once for them, and stages 4 to 8 of one span of it."""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.curate.collect import Video, is_address, local_copy, probe, stamp_of
from asymtalker.curate.corruption import sound_scores
from asymtalker.curate.cuts import Changes, ChangeScores
from asymtalker.curate.duplicates import PicturePrints, Print, load_prints, save_prints, sound_prints
from asymtalker.curate.faces import write_clips
from asymtalker.curate.framed import ClipStage, FramedClip
from asymtalker.curate.hands import hand_scores
from asymtalker.curate.lips import sync_scores
from asymtalker.curate.masks import write_masks
from asymtalker.curate.people import embed_person, has_recognition
from asymtalker.curate.picture import picture_scores
from asymtalker.curate.published import parsed_mask, pose_scores, separated, syncnet_scores, text_scores
from asymtalker.curate.quality import quality_scores
from asymtalker.curate.recipe import Recipe
from asymtalker.curate.voice import clean_voice
from asymtalker.curate.work import Rejected, Work, done, once, settings_of
from asymtalker.media.atomic import atomic_path, clear_unfinished
from asymtalker.media.sound import AudioFile
from asymtalker.media.video import decode_frames
from asymtalker.media.wav import encode_wav, read_wav
from asymtalker.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

PROBE, CUTS, SOUND, PRINTS, FACES = "video.json", "changes.npz", "sound.wav", "prints.npz", "faces.json"
FETCHED = "fetched"
"""Folder of copies of videos from addresses, while there is something to do for them."""
BLOCK = 60 * SAMPLE_RATE
FRAMED_BY = ("size", "follow")
"""Settings of a recipe that stage 4 goes by."""

MEASURED: tuple[ClipStage, ...] = (
    ClipStage("picture", lambda clip, recipe, late: picture_scores(clip), version=1),
    ClipStage("sound", lambda clip, recipe, late: sound_scores(clip)),
    ClipStage("lips", lambda clip, recipe, late: sync_scores(clip)),
    ClipStage("hands", lambda clip, recipe, late: hand_scores(clip)),
    ClipStage("masks", lambda clip, recipe, late: write_masks(clip)),
    ClipStage("people", lambda clip, recipe, late: embed_person(clip), at_hand=has_recognition),
)
"""Of every clip, in this order."""
PUBLISHED: dict[str, ClipStage] = {
    "syncnet": ClipStage("syncnet", lambda clip, recipe, late: syncnet_scores(clip)),
    "dover": ClipStage("dover", lambda clip, recipe, late: quality_scores(clip, recipe), ("dover",)),
    "dwpose": ClipStage("dwpose", lambda clip, recipe, late: pose_scores(clip)),
    "text": ClipStage("text", lambda clip, recipe, late: text_scores(clip)),
    "bisenet": ClipStage("parsed", lambda clip, recipe, late: write_masks(clip, parsed_mask)),
}
"""Likewise, of the networks that the recipe wants and that are at hand."""
VOICE = ClipStage("voice", clean_voice, ("denoise", "loudness"), moves=True)
"""Comes last, as it is of the whole video by how much its sound is late."""
SEPARATED = ClipStage("separated", partial(clean_voice, separate=separated), ("denoise", "loudness"), moves=True)
"""In its place, where the network that separates voices is at hand."""


def last_stage(networks: Sequence[str]) -> ClipStage:
    """Which of the two, by the networks that are at hand."""
    return SEPARATED if "separation" in networks else VOICE


@dataclass(frozen=True, kw_only=True)
class Span:
    """Frames ``[start, stop)`` of a video, to be made into a clip for everyone in it."""

    key: str
    video: Video
    start: int
    stop: int
    speaker: str | None = None
    """Who speaks in it, if that is said."""
    late: float = 0.0
    """Frames by which the video's sound is late and is to be put right."""


def watch_video(work: Work, sound_late: float, video: Video) -> dict[str, Any]:
    """What is known of a video: its record, and beside it prints, changes of its frames and its sound."""
    folder = work.video(video.key)

    def make() -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        path = local_copy(video, work.folder / FETCHED)
        try:
            return _watched(path, folder, sound_late)
        finally:
            if is_address(video.path):
                path.unlink(missing_ok=True)

    return once(folder / PROBE, watched_by(sound_late, video), make)


def watched_by(sound_late: float, video: Video) -> dict[str, Any]:
    """What a video's record depends on."""
    return {"video": stamp_of(video), "sound_late": sound_late}


def _watched(path: Path, folder: Path, sound_late: float) -> dict[str, Any]:
    found = probe(path)
    pictures, changes, count = PicturePrints(), ChangeScores(), 0
    for frame in decode_frames(path, resample=True):
        pictures.add(count, frame)
        changes.add(frame)
        count += 1
    if not count:
        raise Rejected("unreadable", "it has no picture.")
    audio = AudioFile(path)
    late = round((sound_late - found["delay"]) * SAMPLE_RATE)
    loudest, prints = 0.0, []
    with atomic_path(folder / SOUND) as partial_path, wave.open(str(partial_path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        total = count * SAMPLES_PER_FRAME
        for start in range(0, total, BLOCK):
            samples = audio.read(start + late, min(start + BLOCK, total) + late)
            loudest = max(loudest, float(np.abs(samples).max(initial=0.0)))
            prints.append(sound_prints(samples))
            file.writeframes(encode_wav(samples)[44:])
    ends = (audio.num_samples - late) / SAMPLE_RATE
    with atomic_path(folder / PRINTS) as partial_path, partial_path.open("wb") as out:
        save_prints(out, Print(np.concatenate(prints), pictures.finish()))
    with atomic_path(folder / CUTS) as partial_path:
        changes.finish().save(partial_path)
    scores = found["scores"] | {"sound_heard": loudest, "drift": abs(ends - count / FPS)}
    return {"scores": scores, "frames": count}


def video_prints(work: Work, key: str) -> Print:
    """Prints of a video that was watched."""
    return load_prints(work.video(key) / PRINTS)


def video_changes(work: Work, key: str) -> Changes:
    """How its frames change."""
    return Changes.load(work.video(key) / CUTS)


def framed_by(recipe: Recipe, sound_late: float, span: Span) -> dict[str, Any]:
    """What the record of a span's clips depends on."""
    return settings_of(recipe, FRAMED_BY) | watched_by(sound_late, span.video) | {"frames": [span.start, span.stop]}


def frame_span(work: Work, recipe: Recipe, sound_late: float, span: Span) -> Span:
    """Stage 4: a clip for everyone in a span. Returns the span."""
    folder = work.span(span.key)
    settings = framed_by(recipe, sound_late, span)
    if done(folder / FACES, settings) is not None:
        return span

    def make(place: Path) -> dict[str, Any]:
        video = local_copy(span.video, work.folder / FETCHED)
        begin, end = SAMPLES_PER_FRAME * span.start, SAMPLES_PER_FRAME * span.stop
        sound = read_wav(work.video(span.video.key) / SOUND, begin, end)
        found = write_clips(place, video, sound, span.start, span.stop, recipe.size, recipe.follow)
        if not found:
            raise Rejected("face_visible", "no face was found in it.")
        return {"faces": found}

    with atomic_path(folder) as place:  # the stages after it write into it: it appears with nothing of theirs
        place.mkdir()
        once(place / FACES, settings, partial(make, place))
    return span


def run_clip_stage(work: Work, recipe: Recipe, stage: str, span: Span) -> Span:
    """A stage after the fourth, of every clip of a span. Returns the span."""
    (wanted,) = (one for one in (*MEASURED, *PUBLISHED.values(), VOICE, SEPARATED) if one.name == stage)
    for clip in clips_of(work, span):
        wanted(clip, recipe, span.late)
    return span


def clips_of(work: Work, span: Span) -> Sequence[FramedClip]:
    """The clips of a span."""
    whole = work.video(span.video.key) / SOUND, SAMPLES_PER_FRAME * span.start
    return [FramedClip(folder, whole) for folder in sorted(work.span(span.key).glob("face[0-9]*"))]
