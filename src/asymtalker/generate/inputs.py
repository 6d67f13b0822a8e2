"""What a person gives to generation: a request, its picture and sound as files or in memory, read and checked."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import IO, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.generate.folder import checkpoint_folder, frames_of
from asymtalker.media.picture import is_animation, picture_array, read_picture
from asymtalker.media.portrait import (
    Placement,
    Portrait,
    check_face,
    check_size,
    choose_face,
    crop_frame,
    crop_within,
    find_upright,
    resize_for_video,
)
from asymtalker.media.read import array_of, spool
from asymtalker.media.sound import AudioFile, AudioSamples
from asymtalker.media.video import Follower, check_output
from asymtalker.models.motion.control import AS_MADE, MotionControl
from asymtalker.provenance.disclosure import AS_USUAL, NO_STATEMENT, Disclosure
from asymtalker.provenance.marks import Marks
from asymtalker.provenance.origin import Provenance, provenance

Held = bytes | bytearray | memoryview | IO[bytes]
"""A file in memory, or an open one."""
Picture = str | Path | Held | Image.Image | np.ndarray
Sound = str | Path | Held | tuple[Any, Any]
Progress = Callable[[int, int], None]
FIRST = "the first picture of "
"""How the name of an animation begins."""
MADE_UP = 0.02
"""Share of a crop beyond the picture from which on it is said."""
MOST_GUIDANCE = 20.0
"""Far beyond what any checkpoint is made for; the values soon overflow."""
MAX_VIDEO_SIDE = 1280
"""Longest side of a whole picture's video, if no size is asked for."""


OPTIONS = ("num_inference_steps", "guidance_scale", "face", "track", "crop", "size", "framed")
"""Fields of a request that change the video, besides its control and what has a place of its own in the provenance."""


def no_progress(done: int, total: int) -> None:
    """The progress of a caller who wants to hear of none."""


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be generated. All ways to generate take these as their arguments.

    Attributes:
        image: path of a picture, its bytes, an open file, a Pillow image, or an ``H W 3`` or ``3 H W`` uint8 array or
            tensor, showing a face.
        audio: path of anything with sound, its bytes, an open file, or ``(samples, rate)``, in either order, see
            :class:`asymtalker.media.sound.AudioSamples`.
        seed: the same seed gives the same video on one machine.
        num_inference_steps: per chunk; by default what the checkpoint was made for.
        guidance_scale: audio guidance, 1 is none; by default what the checkpoint was made for.
        face: which face, counted from 1, the largest (default).
        track: which sound track of a file, counted from 1; by default the one that the file says is its default.
        crop: show what is around the face alone, not the whole picture; a model that moves pictures stays within it
            as far as the face allows.
        size: height and width in pixels, of the frames if ``crop``; else of what the whole picture is fitted into, or,
            of a model that makes pixels, of the part that it makes. By default the checkpoint's size, and the
            picture's own up to 1280.
        framed: the picture is the crop around a face already, such as a frame of a corpus.
        control: how the face is to move, where that is not as the model makes it.
        progress: called with frames done and frames in all.
        say: called with a sentence when there is something to know.
        read: its picture and sound where they were read already, see :func:`read_ahead`.
    """

    image: Picture
    audio: Sound
    _: KW_ONLY
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    face: int | None = None
    track: int | None = None
    crop: bool = False
    size: tuple[int, int] | None = None
    framed: bool = False
    control: MotionControl = AS_MADE
    progress: Progress = no_progress
    say: Callable[[str], None] = print
    read: "Inputs | None" = None

    def sizes(self, own: tuple[int, int], moves_pictures: bool) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Height and width of the part around the face, and of what the whole picture is scaled to fit into, ``None``
        for its own size; of a crop the size of what a model shows that moves pictures, ``None`` for that part itself.

        Args:
            own: what the checkpoint makes.
            moves_pictures: whether it moves the whole picture.

        Raises:
            UserError: if no video can have the size that is asked for.
        """
        if self.size is not None:
            check_size(self.size)
        if moves_pictures and not (self.crop or self.framed):
            return own, self.size
        size = self.size or own
        return size, size if moves_pictures and not self.framed else None


@dataclass(frozen=True, eq=False)
class FramesRequest(Request):
    """A request for frames in memory.

    Attributes:
        output_type: ``"np"`` for an array, ``"pil"`` for a list of Pillow images.

    Raises:
        ValueError: if ``output_type`` is another.
    """

    _: KW_ONLY
    output_type: Literal["np", "pil"] = "np"

    def __post_init__(self) -> None:
        if self.output_type not in ("np", "pil"):
            raise ValueError(f"output_type must be 'np' or 'pil', got {self.output_type!r}")


@dataclass(frozen=True, eq=False)
class FileRequest(Request):
    """A request for a file, whose sound is ``audio``, mono or stereo; ``progress`` is told of frames written, by the
    thread that writes.

    Attributes:
        output: path of the MP4 file; its folder is made, an existing file is replaced.
        disclosure: how the video is to say what it is.
        live: gets the same video as fragmented MP4 while it is made, see :class:`asymtalker.media.video.VideoWriter`.
    """

    output: str | Path
    _: KW_ONLY
    disclosure: Disclosure = AS_USUAL
    live: Follower | None = None

    def options(self) -> dict[str, Any]:
        """What changes the video and is not as usual, by name, as plain JSON values."""
        usual = {each.name: each.default for each in fields(self)}
        given = {name: getattr(self, name) for name in OPTIONS if getattr(self, name) != usual[name]}
        given |= {name: value for name, value in vars(self.control).items() if value != vars(AS_MADE)[name]}
        for name in ("label", "watermark"):
            if (value := getattr(self.disclosure, name)) != getattr(AS_USUAL, name):
                given[name] = value
        if self.size is not None:
            given["size"] = "x".join(map(str, self.size))  # C2PA's library reads a list of small numbers as bytes
        return given


P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
Q = TypeVar("Q", bound=Request)


def called_with(request: Callable[P, Q]) -> Callable[[Callable[[S, Q], R]], Callable[Concatenate[S, P], R]]:
    """Let a method that takes a request be called with what the request is made of.

    Args:
        request: the class of the request.
    """

    def decorate(method: Callable[[S, Q], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def call(self: S, *arguments: P.args, **keywords: P.kwargs) -> R:
            return method(self, request(*arguments, **keywords))

        own = next(iter(inspect.signature(method).parameters.values()))
        call.__signature__ = inspect.Signature([own, *inspect.signature(request).parameters.values()])
        return call

    return decorate


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A request's picture and sound, read and checked.

    Attributes:
        portrait: the part around the face.
        whole: the picture that is to be seen, or of it the crop within, ``None`` for the portrait.
        points: ``(478, 3)`` of the face in that picture, in pixels.
        audio: the sound.
        sources: files or arrays that picture and sound were read from.
    """

    portrait: Portrait
    whole: np.ndarray | None = None
    points: np.ndarray | None = None
    audio: AudioFile | AudioSamples
    sources: "Sources"

    def faces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pictures that there are and the points of the face in them, as far as these were read."""
        for picture, points in ((self.portrait.picture, self.portrait.points), (self.whole, self.points)):
            if picture is not None and points is not None:
                yield picture, points

    @property
    def seen(self) -> np.ndarray:
        """What the frames show, ``(H, W, 3)`` uint8."""
        return self.portrait.picture if self.whole is None else self.whole


@dataclass(frozen=True)
class Sources:
    """What a request's picture and sound are read from: a file, or what is in memory.

    Attributes:
        picture, sound: paths of files that can be read again, or values in memory.
        spooled: copies of pipes, bytes and open files, which are gone with this, and what to call them.
    """

    picture: Picture
    sound: Sound
    spooled: tuple[tuple[IO[bytes], str], ...] = ()

    @classmethod
    def of(cls, request: Request) -> "Sources":
        """Those of a request."""
        given: list[Any] = [request.image, request.audio]
        spooled = list[tuple[IO[bytes], str]]()
        for index, what in enumerate(("picture", "audio file")):
            if spooling := spool(given[index], what):
                spooled.append(spooling)
                given[index] = Path(spooling[0].name)
        given[1] = _samples_first(given[1])
        return cls(*given, tuple(spooled))

    def as_given(self, sentence: str) -> str:
        """What is said of a copy, whose own name nobody knows."""
        for copy, name in self.spooled:
            sentence = sentence.replace(copy.name, name)
        return sentence


def _samples_first(audio: Any) -> Any:
    """``(samples, rate)``, also of ``(rate, samples)``, as SciPy and Gradio have it; all else as it is."""
    pair = isinstance(audio, tuple | list) and len(audio) == 2
    if pair and isinstance(audio[0], Real) and not isinstance(audio[1], Real):
        return audio[1], audio[0]
    return audio


def read_inputs(request: Request, size: tuple[int, int], fit: tuple[int, int] | None) -> Inputs:
    """Read and check picture and sound.

    Args:
        request: what to read.
        size: height and width of the part around the face.
        fit: what the whole picture is scaled to fit into; ``None`` for its own size, up to ``MAX_VIDEO_SIDE``. Of a
            crop the size of one within the picture that is shown instead of that part, ``None`` to show the part.

    Raises:
        UserError: if one can't be read, or the picture shows no face, or, framed already, is of another size.
    """
    sources = Sources.of(request)
    try:
        return _read(request, sources, lambda sentence: request.say(sources.as_given(sentence)), size, fit)
    except UserError as error:
        raise UserError(sources.as_given(str(error))) from error


def read_ahead(request: Request, model: str | Path | None) -> Inputs:
    """The same, and what else can be checked, before a checkpoint is loaded, so that nobody waits for it in vain.

    Args:
        request: what to read.
        model: the checkpoint, as :func:`asymtalker.generate.folder.checkpoint_folder` takes it.

    Raises:
        UserError: as of :func:`read_inputs`, if there is no such checkpoint, and if steps, guidance, output or label
            can't be.
    """
    check_sampling(request.num_inference_steps, request.guidance_scale)
    if isinstance(request, FileRequest):
        check_not_input(check_output(request.output), request.image, request.audio)
    read = read_inputs(request, *request.sizes(*frames_of(checkpoint_folder(model))))
    if isinstance(request, FileRequest):
        Marks(request.disclosure, 0, read.seen.shape[:2])
    return read


def check_sampling(steps: int | None, guidance: float | None) -> None:
    """Check the steps of a chunk and the audio guidance, ``None`` for the checkpoint's.

    Raises:
        UserError: if one is out of range.
    """
    if steps is not None and steps < 1:
        raise UserError(f"The number of steps must be at least 1, not {steps}.")
    if guidance is not None and not 0 <= guidance <= MOST_GUIDANCE:  # which is so of NaN too
        raise UserError(f"Guidance must be from 0 to {MOST_GUIDANCE:g}, not {guidance:g}.")


def _open(
    request: Request, sources: Sources, say: Callable[[str], None]
) -> tuple[np.ndarray, str, AudioFile | AudioSamples]:
    """The picture, what to call it, and the sound, with what there is to know of either said."""
    picture, name = read_image(sources.picture)
    if name.startswith(FIRST):
        say(f"{name.removeprefix(FIRST)} shows one picture after another: only the first counts.")
    audio = read_sound(sources.sound, request.track)
    for remark in audio.remarks:
        say(remark)
    return picture, name, audio


def _read(
    request: Request,
    sources: Sources,
    say: Callable[[str], None],
    size: tuple[int, int],
    fit: tuple[int, int] | None,
) -> Inputs:
    picture, name, audio = _open(request, sources, say)
    if request.framed:
        if picture.shape[:2] != size:
            found, wanted = ("x".join(map(str, sides)) for sides in (picture.shape[:2], size))
            raise UserError(f"{name} is {found} (height x width), but the model makes {wanted}: scale it.")
        return Inputs(portrait=Portrait(picture, Placement(0, 0, *size)), audio=audio, sources=sources)
    scale = 1.0
    if not request.crop:
        scale = min(1.0, MAX_VIDEO_SIDE / max(picture.shape[:2]))
        if fit:
            scale = min(sides / own for sides, own in zip(fit, picture.shape, strict=False))
        picture = resize_for_video(picture, scale)
    picture, faces, turn = find_upright(picture)
    if turn:
        say(f"The face in {name} is not upright: the picture was turned by {turn} degrees clockwise.")
    box = choose_face(faces, request.face, name, say)
    scaled = f", scaled to {picture.shape[0]}x{picture.shape[1]}," if scale < 1 else ""
    check_face(box, picture.shape, f"{name}{scaled}", say, shrunk=scale < 1)
    portrait = crop_frame(picture, box, size)
    if request.crop:
        shown = crop_within(picture, box, fit) if fit else portrait
        if (beyond := shown.placement.beyond(picture.shape)) > MADE_UP:
            say(f"The crop around the face reaches beyond {name}: {beyond:.0%} of it is its edge, blurred.")
        if shown.placement == portrait.placement:
            return Inputs(portrait=portrait, audio=audio, sources=sources)
        return Inputs(portrait=portrait, whole=shown.picture, points=shown.points, audio=audio, sources=sources)
    points = box.mesh and box.mesh.points
    return Inputs(portrait=portrait, whole=picture, points=points, audio=audio, sources=sources)


def origin_of(request: FileRequest, sources: Sources, model: str, version: str | None) -> Provenance:
    """What a request's video is made of, but for whether it can hold a watermark.

    Args:
        request: what is asked for.
        sources: of its picture and sound.
        model: name of the checkpoint.
        version: of the checkpoint, see :func:`asymtalker.provenance.origin.version_of`.
    """
    return provenance(
        model,
        request.seed,
        sources.picture,
        sources.sound,
        model_version=version,
        options=request.options(),
        consent=request.disclosure.consent or NO_STATEMENT,
    )


def read_sound(audio: Sound, track: int | None) -> AudioFile | AudioSamples:
    """The sound of a file, or of samples in memory.

    Raises:
        UserError: if it can't be read or is no sound.
    """
    if isinstance(audio, str | Path):
        return AudioFile(audio, track)
    if track is not None:
        raise UserError("Samples have no sound tracks to choose from: a track is one of a file.")
    if not isinstance(audio, tuple | list) or len(audio) != 2:
        raise UserError(
            f"Sound is the path of a file, its bytes, an open file, or (samples, rate), not {_described(audio)}."
        )
    return AudioSamples(*audio)


def _described(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def read_image(image: Picture) -> tuple[np.ndarray, str]:
    """The picture as an array ``H W 3`` uint8 and what to call it in a sentence.

    Raises:
        UserError: if it can't be read or is no picture.
    """
    name = "the picture"
    if isinstance(image, str | Path):
        picture = read_picture(image)
        return picture, f"{FIRST if is_animation(image) else ''}{image}"
    if isinstance(image, Image.Image):
        return picture_array(image), name
    values = array_of(image, "A picture")
    if values.ndim == 3 and values.shape[0] in (3, 4) and values.shape[2] not in (3, 4):  # as torchvision has it
        values = np.ascontiguousarray(values.transpose(1, 2, 0))
    if values.dtype != np.uint8 or values.ndim not in (2, 3):
        raise UserError(f"A picture array must be H W 3 uint8, not {values.shape} {values.dtype}.")
    try:
        return picture_array(Image.fromarray(values)), name
    except (TypeError, ValueError) as error:
        raise UserError(f"A picture array must be H W 3 uint8, not {values.shape} {values.dtype}.") from error


def check_not_input(output: Path, *inputs: object) -> None:
    """Check that no input that is a file would be overwritten.

    Raises:
        UserError: if one would.
    """
    for path in inputs:
        if isinstance(path, str | Path) and output.exists() and Path(path).exists() and output.samefile(path):
            raise UserError(f"The output {output} would overwrite an input: give it another name.")
