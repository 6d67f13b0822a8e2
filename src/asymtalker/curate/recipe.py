"""What a clip has to be like: every threshold of curation, and what its stages make.

A field ``least_<score>`` or ``most_<score>`` is a limit of the score of that name; their order is the order of the
cascade, and the first that a clip fails is why it was rejected. ``None`` is no limit. Limits are applied to stored
scores: to change one runs nothing again.
"""

import ast
import difflib
import inspect
import math
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from asymtalker.errors import UserError, join_or

NETWORKS = ("syncnet", "dover", "dwpose", "bisenet", "text", "separation")
"""Published networks that stages use where their weights are at hand."""
SMALLEST = 32
"""Width and height in pixels of the smallest clips."""
KINDS = {
    "tuple": "a list of texts",
    "Literal": "stop or go_on",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
}
"""Types of fields in words."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages and thresholds of :mod:`asymtalker.curate`."""

    # Stage 1
    licences: tuple[str, ...] | None = None
    """Only these pass, as the table of videos or ``--licence`` writes them, in any case; ``None`` is all."""
    unknown_licence: bool = False
    """Whether a video whose licence neither the table of videos nor ``--licence`` says passes."""
    # Stage 2
    duplicate_sound: float = 0.3
    """Share of differing bits of the sound's prints up to which two videos are the same; strangers have 0.5."""
    duplicate_picture: float = 0.3
    """The same, of the pictures' hashes."""
    duplicate_overlap: float = 0.5
    """Share of the shorter video that the two have to have in common."""
    # Stage 3
    cut_ratio: float = 3.0
    """A cut changes the picture by so many times what its neighbours do (PySceneDetect's adaptive ratio), and"""
    cut_change: float = 12.0
    """by so much on the scale of PySceneDetect's content score, from 0 to 255."""
    jump_ratio: float = 4.5
    """A jump cut moves what moves most by so many times what it moves in the second around it, and"""
    jump_change: float = 14.0
    """by so many levels of grey, from 0 to 255."""
    min_frames: int = 25
    """Shorter clips are left out."""
    max_frames: int = 500
    """Longer ones are divided."""
    # Stage 4
    size: int = 256
    """Width and height of clips in pixels at most; smaller faces are not enlarged."""
    follow: float = 0.35
    """Widths of the face by which it may stray from its middle before the crop follows it."""
    # Stages 6 and 7
    correct_sync: float = 0.0
    """Frames from which on a video's sound that is early or late is put right; 0 never does."""
    denoise: bool = False
    """Take stationary noise out of the sound."""
    loudness: float | None = None
    """LUFS that the sound is brought to; ``None`` leaves it as it is."""
    networks: tuple[str, ...] = ()
    """Published networks to use: syncnet, dover, dwpose, bisenet, text, separation."""
    dover: str | None = None
    """The ONNX file of DOVER that its authors' ``convert_to_onnx.py`` writes, which they do not publish."""
    missing: Literal["stop", "go_on"] = "go_on"
    """What to do where one of them can't be had."""

    # Limits
    least_source_pixels: float | None = None
    """Shorter side of the video."""
    least_sound_heard: float | None = 0.0001
    """Loudest sample of the video's sound: of silence nothing is learnt."""
    most_drift: float | None = 0.5
    """Seconds by which the sound ends before the picture, or after it."""
    least_frames: float | None = None
    """Frames of the clip."""
    least_face_visible: float | None = 0.97
    """Share of the frames that show the face."""
    least_face_pixels: float | None = 40
    """Width of the face in the video."""
    most_face_cut: float | None = 0.1
    """Share of the face's points that lie outside the picture, in the worst tenth of the frames."""
    least_face_score: float | None = 0.8
    """How sure the face mesh is, in the worst tenth of the frames."""
    most_outside: float | None = None
    """Share of the crop that lies outside the picture, where its edge is drawn out."""
    most_shake: float | None = 0.25
    """Widths of the face by which it moves from one frame to the next at most: beyond, the crop or the shot jumps."""
    most_jump: float | None = 6.0
    """How many times more than usual around it what moves most moves in the worst frame of the crop."""
    most_frozen: float | None = 0.25
    """Seconds for which the picture stands still."""
    least_sharpness: float | None = 0.33
    """Of the face, from 0 to 1: how much detail goes when it is blurred."""
    least_quality: float | None = None
    """DOVER's fused score, from 0 to 1."""
    most_hidden: float | None = 0.15
    """Seconds for which something covers a part of the face."""
    most_hands: float | None = 0.7
    """Seconds for which hands are over the face."""
    most_points_missing: float | None = None
    """Share of frames in which DWPose's points of the face are missing or unsure."""
    most_pose_hands: float | None = 0.7
    """Seconds for which DWPose's hands are over the face."""
    most_text: float | None = 0.7
    """Seconds for which letters are seen, such as captions and logos, of PP-OCR."""
    most_clipped: float | None = 0.06
    """Share of the samples that stand at full scale."""
    most_dropout: float | None = 0.03
    """Seconds that are cut out of the sound: silence that begins and ends at once."""
    most_silence: float | None = 0.65
    """Share of the clip in which nothing is heard."""
    least_snr: float | None = 16.0
    """Decibels of speech over what is heard in its pauses."""
    least_speaking: float | None = 0.0
    """How much better the lips fit the sound than those of anyone else in the picture do."""
    least_video_sync: float | None = None
    """How sure it is that lips and sound belong together, the median of the video's clips
    (:mod:`asymtalker.curate.lips`)."""
    least_sync: float | None = None
    """How sure it is that lips and sound belong together, of the clip alone."""
    most_offset: float | None = 3.0
    """Frames by which the sound is early or late, which ``correct_sync`` and ``--sound-late`` put right."""
    least_sync_confidence: float | None = None
    """SyncNet's confidence."""
    most_sync_distance: float | None = None
    """SyncNet's distance."""

    def limits(self) -> list[tuple[str, str, float]]:
        """``(score, "least" or "most", limit)`` in the order of the cascade."""
        found = []
        for field in fields(self):
            side, _, score = field.name.partition("_")
            if side in ("least", "most") and (limit := getattr(self, field.name)) is not None:
                found.append((score, side, float(limit)))
        return found


@cache
def score_meanings() -> dict[str, str]:
    """What each limited score is, in words: what is written below its field in :class:`Recipe`."""
    (recipe,) = ast.parse(inspect.getsource(Recipe)).body
    assert isinstance(recipe, ast.ClassDef)
    found = {}
    for field, said in pairwise(recipe.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, ast.Expr):
            side, _, score = field.target.id.partition("_")
            if side in ("least", "most"):
                text = " ".join(inspect.cleandoc(ast.literal_eval(said.value)).split()).rstrip(".")
                text = text.replace("``", "").replace(":mod:`", "").replace("`", "")
                found[score] = text[0].lower() + text[1:] if text.split()[0][1:].islower() else text
    return found


RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(),
    "paper": Recipe(
        licences=(
            "cc0",
            "cc0-1.0",
            "cc-by",
            "cc-by-3.0",
            "cc-by-4.0",
            "cc-by-sa",
            "cc-by-sa-3.0",
            "cc-by-sa-4.0",
            "public domain",
            "own",
        ),
        min_frames=81,
        size=512,
        correct_sync=0.8,
        denoise=True,
        loudness=-23.0,
        networks=NETWORKS,
        least_source_pixels=256,
        least_face_pixels=96,
        most_outside=0.1,
        least_face_visible=0.98,
        least_quality=0.4,
        most_points_missing=0.2,
        least_video_sync=0.38,
        least_sync=0.3,
        most_offset=2.0,
        least_sync_confidence=3.0,
        most_sync_distance=9.0,
        least_snr=18.0,
    ),
}
"""``tiny`` is for the bundled model: clips of a second, sound as it is. ``paper`` is appendix F's: clips of 81 frames
and more, allowed licences alone, clean voices."""


def read_recipe(name: str) -> Recipe:
    """A recipe by its name, or of a TOML file with fields of :class:`Recipe` and ``base``, the name of the recipe that
    says the others; ``"none"`` in place of a limit is no limit.

    Raises:
        UserError: if there is no such recipe or file, or it has what no recipe has.
    """
    if name in RECIPES:
        return RECIPES[name]
    try:
        table = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"There is no recipe {name}: give {join_or(list(RECIPES))}, or a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {name} is not TOML: {error}.") from error
    base = table.pop("base", "tiny")
    if not isinstance(base, str) or base not in RECIPES:
        raise UserError(f"{name}: base is {join_or(list(RECIPES))}, not {base}.")
    known = {field.name: field.type for field in fields(Recipe)}
    recipe = replace(RECIPES[base], **{key: _value(name, known, key, value) for key, value in table.items()})
    check_recipe(recipe, name)
    return recipe


def check_recipe(recipe: Recipe, name: str) -> None:
    """Raises UserError if no clip could be as a recipe wants it."""
    if recipe.size < SMALLEST:
        raise UserError(f"{name}: size is {recipe.size} pixels, and no face is seen below {SMALLEST}.")
    if not 1 <= recipe.min_frames <= recipe.max_frames:
        raise UserError(
            f"{name}: no clip has at least {recipe.min_frames} and at most {recipe.max_frames} frames (min_frames,"
            " max_frames)."
        )
    if wrong := [network for network in recipe.networks if network not in NETWORKS]:
        raise UserError(f"{name}: there is no network {wrong[0]}: there is {join_or(NETWORKS)}.")


def _value(name: str, known: dict[str, Any], key: str, value: Any) -> Any:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"did you mean {near[0]}?" if near else "docs/curation.md says where all fields are listed."
        raise UserError(f"{name}: no recipe has {key}: {meant}")
    kind = getattr(known[key], "__name__", "") or str(known[key])
    kind = str(known[key]) if kind in ("Optional", "Union", "UnionType", "Literal") else kind
    if value == "none" and "None" in kind:
        return None
    if "tuple" in kind and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if "str" in kind and "tuple" not in kind and "Literal" not in kind and isinstance(value, str):
        return value
    if "Literal" in kind and value in ("stop", "go_on"):
        return value
    if kind.startswith("bool") and isinstance(value, bool):
        return value
    if kind.startswith("int") and isinstance(value, int) and not isinstance(value, bool):
        return value
    if "float" in kind and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    wanted = next((words for sign, words in KINDS.items() if sign in kind), "a text")
    none = ', or "none"' if "None" in kind else ""
    raise UserError(f"{name}: {key} can't be {value!r}: give {wanted}{none}.")
