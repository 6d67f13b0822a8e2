"""What makes one rendered head: shape, skin, hair, eyes, clothes, light, camera and background, all from a seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from asymtalker.synth import mesh

HAIR_STYLES = ("bald", "short", "crop", "side", "bob", "long", "bun", "curly")

# Natural skin from light to dark (sRGB), hair and iris colours; each is varied a little.
SKIN_TONES = np.array(
    [
        (238, 205, 184),
        (229, 190, 164),
        (219, 174, 143),
        (203, 154, 121),
        (181, 131, 98),
        (150, 103, 74),
        (116, 77, 55),
        (84, 55, 41),
    ]
)
HAIR_COLOURS = np.array(
    [
        (26, 21, 19),
        (44, 31, 24),
        (72, 49, 34),
        (101, 70, 45),
        (139, 103, 62),
        (188, 152, 96),
        (122, 58, 32),
        (150, 146, 142),
        (208, 205, 200),
    ]
)
IRIS_COLOURS = np.array([(66, 42, 24), (92, 60, 32), (112, 88, 48), (92, 112, 74), (88, 122, 150), (116, 138, 152)])

_SHAPE_TARGETS = (
    *(
        f"head/head-{k}"
        for k in ("oval", "round", "square", "rectangular", "triangular", "invertedtriangular", "diamond")
    ),
)
_PAIRED_TARGETS = (
    *(
        f"nose/nose-{k}"
        for k in ("hump", "scale-depth", "scale-horiz", "scale-vert", "volume", "width1", "width2", "width3")
    ),
    *(f"nose/nose-{k}" for k in ("point-width", "flaring", "nostrils-width", "greek")),
    *(f"mouth/mouth-{k}" for k in ("scale-horiz", "scale-vert", "lowerlip-volume", "upperlip-volume", "cupidsbow")),
    *(f"mouth/mouth-{k}" for k in ("lowerlip-height", "upperlip-height", "philtrum-volume")),
    *(f"chin/chin-{k}" for k in ("height", "width", "prominent", "bones", "jaw-drop")),
    *(f"forehead/forehead-{k}" for k in ("scale-vert", "nubian", "temple")),
    *(f"head/head-{k}" for k in ("fat", "scale-depth", "scale-horiz", "scale-vert", "age")),
    *(f"neck/neck-{k}" for k in ("scale-horiz", "scale-depth", "double")),
)
_SIDED_TARGETS = (
    *(f"cheek/{{}}-cheek-{k}" for k in ("bones", "inner", "volume")),
    *(f"eyes/{{}}-eye-{k}" for k in ("scale", "height1", "height2", "height3", "bag")),
    *(f"ears/{{}}-ear-{k}" for k in ("scale", "lobe", "wing", "flap")),
)
_DIRECTED_TARGETS = (
    ("eyebrows/eyebrows-trans-down", "eyebrows/eyebrows-trans-up"),
    ("eyebrows/eyebrows-angle-down", "eyebrows/eyebrows-angle-up"),
    ("nose/nose-trans-down", "nose/nose-trans-up"),
    ("nose/nose-point-down", "nose/nose-point-up"),
    ("nose/nose-base-down", "nose/nose-base-up"),
    ("mouth/mouth-trans-down", "mouth/mouth-trans-up"),
    ("mouth/mouth-angles-down", "mouth/mouth-angles-up"),
)


@dataclass(frozen=True)
class Light:
    """A directional light: `direction` towards it (3,), `colour` (3,) in [0, 1] times its strength."""

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Identity:
    """Everything that defines one rendered head's look. Colours are sRGB in 0..255; `seed` also seeds its textures.

    `shape` (19158, 3) is the MakeHuman mesh at rest; `camera_distance` in decimetres, `camera_turn` (yaw, pitch) in
    degrees; `framing` (x, y, side) where the face box lies in the picture; `texture` "natural" or "procedural".
    """

    seed: int
    texture: str
    shape: np.ndarray
    male: float
    old: float
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    brows: np.ndarray
    iris: np.ndarray
    hair_style: str
    stubble: float
    freckles: float
    makeup: float
    clothes: np.ndarray
    neckline: float
    lights: tuple[Light, ...]
    ambient: float
    camera_distance: float
    camera_turn: tuple[float, float]
    framing: tuple[float, float, float]
    background: str


def _random_shape(rng: np.random.Generator, male: float, old: float, ancestry: np.ndarray) -> np.ndarray:
    """MakeHuman macro targets plus moderate random amounts of the face's detail targets."""
    shape = mesh.macro_shape(
        male,
        old,
        (float(ancestry[0]), float(ancestry[1]), float(ancestry[2])),
        weight=float(np.clip(rng.normal(0, 0.25), -0.6, 0.6)),
    )
    for name in rng.choice(_SHAPE_TARGETS, 2, replace=False):
        shape += rng.uniform(0, 0.5) * mesh.target(str(name))
    amounts = rng.normal(0, 0.22, len(_PAIRED_TARGETS)).clip(-0.55, 0.55)
    for name, amount in zip(_PAIRED_TARGETS, amounts, strict=True):
        shape += abs(amount) * mesh.target(f"{name}-{'incr' if amount > 0 else 'decr'}")
    for pattern in _SIDED_TARGETS:
        both = rng.normal(0, 0.22)
        for side in ("l", "r"):
            amount = float(np.clip(both + rng.normal(0, 0.04), -0.6, 0.6))
            shape += abs(amount) * mesh.target(f"{pattern.format(side)}-{'incr' if amount > 0 else 'decr'}")
    for less, more in _DIRECTED_TARGETS:
        amount = float(np.clip(rng.normal(0, 0.25), -0.6, 0.6))
        shape += abs(amount) * mesh.target(more if amount > 0 else less)
    return shape.astype(np.float32)


def _random_lights(rng: np.random.Generator) -> tuple[tuple[Light, ...], float]:
    """A key light, a weaker fill from the other side and a rim from behind, from warm to cool."""
    azimuth = float(rng.uniform(-65, 65))
    elevation = float(rng.uniform(5, 50))
    warmth = float(rng.uniform(-0.10, 0.14))
    key = float(rng.uniform(0.70, 1.0))

    def towards(yaw: float, pitch: float) -> tuple[float, float, float]:
        y, p = np.radians([yaw, pitch])
        return (float(np.sin(y) * np.cos(p)), float(np.sin(p)), float(np.cos(y) * np.cos(p)))

    def tone(strength: float, warm: float) -> tuple[float, float, float]:
        return (strength * (1 + warm), strength, strength * (1 - warm))

    fill = float(rng.uniform(0.12, 0.40))
    rim = float(rng.uniform(0.0, 0.55))
    ambient = float(rng.uniform(0.22, 0.42))
    exposure = float(rng.uniform(1.02, 1.25)) / (0.95 * key + 0.5 * fill + 1.1 * ambient)
    key, fill, ambient = key * exposure, fill * exposure, ambient * exposure
    return (
        Light(towards(azimuth, elevation), tone(key, warmth)),
        Light(towards(-azimuth * rng.uniform(0.6, 1.2), rng.uniform(-10, 25)), tone(fill, -warmth)),
        Light(towards(180 - azimuth * rng.uniform(0.5, 1.0), rng.uniform(15, 45)), tone(rim, rng.uniform(-0.1, 0.1))),
    ), ambient


def random_identity(seed: int, *, texture: Literal["natural", "procedural"] | None = None) -> Identity:
    """An adult head drawn from `seed`; the same seed always gives the same head.

    `texture` "natural" gives natural skin, hair and light, "procedural" random colours and patterns over the same
    geometry; None draws one of them (three in four natural).
    """
    rng = np.random.default_rng([seed, 20261])
    drawn = "natural" if rng.random() < 0.75 else "procedural"
    male = float(
        rng.choice([rng.uniform(0.0, 0.15), rng.uniform(0.85, 1.0), rng.uniform(0.3, 0.7)], p=[0.45, 0.45, 0.1])
    )
    old = float(rng.beta(1.2, 2.2))
    ancestry = rng.dirichlet([0.35, 0.35, 0.35])
    shape = _random_shape(rng, male, old, ancestry)
    african, asian, caucasian = ancestry
    tone = float(
        np.clip(african * rng.normal(5.8, 0.9) + asian * rng.normal(2.2, 0.8) + caucasian * rng.normal(0.9, 0.8), 0, 7)
    )
    skin = np.array([np.interp(tone, np.arange(8), SKIN_TONES[:, k]) for k in range(3)]) + rng.normal(0, 3, 3)
    fair = max(0.0, caucasian - 0.4) / 0.6
    hair_index = rng.choice(9, p=_hair_odds(fair, old))
    hair = HAIR_COLOURS[hair_index] * rng.uniform(0.85, 1.15) + rng.normal(0, 3, 3)
    iris_odds = np.array([1.0, 1.0, 0.3 + fair, 0.6 * fair, 1.0 * fair, 0.7 * fair]) + 1e-3
    iris = IRIS_COLOURS[rng.choice(6, p=iris_odds / iris_odds.sum())] * rng.uniform(0.85, 1.2)
    styles = np.array(
        [0.10, 0.25, 0.2, 0.2, 0.03, 0.05, 0.02, 0.15]
        if male > 0.5
        else [0.01, 0.06, 0.05, 0.1, 0.25, 0.28, 0.13, 0.12]
    )
    lights, ambient = _random_lights(rng)
    makeup = float(rng.uniform(0, 1)) if male < 0.5 else 0.0
    lips = skin * [0.86, 0.62, 0.62] + [12, 0, 2]
    lips = lips * (1 - 0.5 * makeup) + 0.5 * makeup * np.array(
        [rng.uniform(150, 190), rng.uniform(40, 80), rng.uniform(60, 90)]
    )
    return Identity(
        seed=seed,
        texture=texture or drawn,
        shape=shape,
        male=male,
        old=old,
        skin=np.clip(skin, 20, 250),
        lips=np.clip(lips, 20, 240),
        hair=np.clip(hair, 8, 235),
        brows=np.clip(hair * 0.75 + (10 if hair_index < 8 else -40), 8, 150),
        iris=np.clip(iris, 15, 220),
        hair_style=str(rng.choice(HAIR_STYLES, p=styles)),
        stubble=float(rng.choice([0.0, rng.uniform(0.15, 0.5), rng.uniform(0.5, 1.0)], p=[0.4, 0.35, 0.25]))
        if male > 0.5
        else 0.0,
        freckles=float(rng.uniform(0, 1) * (rng.random() < 0.3) * fair),
        makeup=makeup,
        clothes=rng.uniform(15, 225, 3) * rng.uniform(0.4, 1.0),
        neckline=float(rng.uniform(5.45, 5.95)),
        lights=lights,
        ambient=ambient,
        camera_distance=float(rng.uniform(8, 16)),
        camera_turn=(float(rng.normal(0, 6)), float(rng.normal(0, 4))),
        framing=(
            0.5 + float(rng.uniform(-0.03, 0.03)),
            0.55 + float(rng.uniform(-0.03, 0.03)),
            0.5 * float(rng.uniform(0.94, 1.06)),
        ),
        background=str(rng.choice(["gradient", "bokeh", "wall", "outdoor"])),
    )


def _hair_odds(fair: float, old: float) -> np.ndarray:
    """Odds of `HAIR_COLOURS`: fair ancestry widens the range, age turns it grey."""
    odds = (
        np.array([1.0, 1.0, 0.7, 0.2 + 0.8 * fair, 0.8 * fair, 0.6 * fair, 0.35 * fair, 1.6 * old**2, 1.4 * old**3])
        + 1e-4
    )
    return odds / odds.sum()
