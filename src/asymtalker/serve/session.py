"""A talking head that lives: sound in as it comes, frames with their sound out, in order and in time.

Nothing here knows of the web. A session makes its video by the chunk loop (:mod:`asymtalker.rollout`), of chunks that
add a few frames each and hear a little ahead; in silence it goes on, as the model does of silence. Given
``live=None`` it makes the chunks that generation of a file makes, and the same frames.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
from torch import Tensor

from asymtalker.config import ChunkConfig, LiveConfig
from asymtalker.errors import UserError
from asymtalker.generate.inputs import Picture, Request
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.models.audio import BLOCK_FRAMES, CONTEXT_FRAMES
from asymtalker.models.motion.control import AS_MADE, MotionControl
from asymtalker.rollout import Course
from asymtalker.serve.latency import Latency
from asymtalker.serve.sound import LiveSound
from asymtalker.timeline import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    Span,
    frames_of_samples,
    live_span,
)

MOST_WAITING = 60.0
"""Seconds of sound that may wait for their place; then :meth:`Session.push` waits."""
RESERVE = SAMPLE_RATE // 50
"""Sound held back at the beginning of speech, 20 ms, against packets that come unevenly."""
LIVE_PAST = CONTEXT_FRAMES
"""Frames of sound heard before a live chunk."""
BEHIND = SAMPLES_PER_FRAME
"""Sound that waits beyond the reserve before a session that keeps up leaves out a quiet frame."""
WATCHED = 8
"""Chunks whose first frames were all there early before a session that keeps up leaves out a quiet moment."""
SKIPPED = SAMPLE_RATE // 100
"""Least that is left out, 10 ms."""
MOST_BEHIND = 5.0
"""Seconds by which a session that keeps up may fall behind; of speech that waits longer the oldest is left out."""
CALM = 30.0
"""Seconds after a late frame for which being early is no reason to come closer."""
FIRST_GUESS = 0.25
"""Seconds that the first frame of a chunk is taken to need, before it was measured."""
MARGIN = 1.15
"""What a chunk is allowed over the time that chunks need."""
Mark = Callable[[np.ndarray], np.ndarray]
"""Gives a picture of its own, of the same shape."""
SILENCE = (np.ones(1, np.float32), SAMPLE_RATE)
"""Stands for the sound of a request that has none; it is not heard."""


@dataclass(frozen=True)
class Moment:
    """A frame and its sound.

    Attributes:
        number: counted from 0.
        picture: ``(H, W, 3)`` uint8 RGB.
        sound: ``(640,)`` float32, its 40 ms at 16 kHz.
        seconds: where it begins in the video.
    """

    number: int
    picture: np.ndarray
    sound: np.ndarray

    @property
    def seconds(self) -> float:
        """Where it begins in the video."""
        return self.number / FPS


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """Who is to be seen and how; see :class:`asymtalker.generate.inputs.Request`."""

    image: Picture
    seed: int = 0
    face: int | None = None
    crop: bool = False
    size: tuple[int, int] | None = None
    framed: bool = False
    control: MotionControl = AS_MADE
    say: Callable[[str], None] = field(default=lambda _: None)

    def request(self, live: LiveConfig | None) -> Request:
        """The request of such a video."""
        return Request(
            self.image,
            SILENCE,
            seed=self.seed,
            num_inference_steps=live.steps if live else None,
            face=self.face,
            crop=self.crop,
            size=self.size,
            framed=self.framed,
            control=self.control,
            say=self.say,
        )


class Session:
    """One video that goes on until it is closed, or until the sound has been shown that came before :meth:`end`.

    A thread of its own makes it; :meth:`push`, :meth:`interrupt`, :meth:`end` and :meth:`close` may be called by any
    thread, and one reads :meth:`moments`. What is made ahead of what is shown is bounded, what waits to be heard too.

    Args:
        pipeline: makes it; several sessions share one.
        portrait: who is seen.
        live: how it hears; ``None`` for the chunks of a file.
        paced: moments come when they are due, and silence where no sound has come; otherwise as soon as they are
            made, and the session waits for sound.
        keeps_up: the sound comes as it is spoken, so that quiet moments are left out where it has fallen behind.
        mark: what is done to every picture ``(H, W, 3)`` before it is shown, such as to label it.

    Attributes:
        size: height and width of the pictures.
        latency: what was measured of it.

    Raises:
        UserError: if the picture cannot be used.
    """

    def __init__(
        self,
        pipeline: AsymTalkerPipeline,
        portrait: Portrait,
        live: LiveConfig | None = LiveConfig(),  # noqa: B008
        *,
        paced: bool = True,
        keeps_up: bool = False,
        mark: Mark = np.copy,
    ):
        self._pipeline, self._live, self._paced, self._keeps_up = pipeline, live, paced, keeps_up
        self._mark = mark
        self._request = portrait.request(live)
        self._inputs = pipeline.inputs(self._request)
        height, width = self._inputs.seen.shape[:2]
        self.size = (height, width)
        chunk = pipeline.settings.chunk
        self._chunk = ChunkConfig(frames=live.frames, continuity_frames=chunk.continuity_frames) if live else chunk
        self._sound = LiveSound()
        self._features = pipeline.features(self._sound)
        self._changed = threading.Condition()
        self._made = deque[Moment]()
        self._shown = 0  # the frame that is shown next
        self._next = 0  # the frame that is made next
        self._index = 0  # of the next chunk
        self._span: Span | None = None  # the chunk that is being made
        self._restart: int | None = None  # the frame from which on an interruption has it made anew
        self._start: float | None = None  # when frame 0 was, or would have been, shown
        self._heard = 0  # the frame up to which the chunk that is being made hears
        self._begun = 0.0  # when that was begun
        self._needs = FIRST_GUESS
        self._early = deque[float](maxlen=WATCHED)  # seconds by which first frames of chunks were there before due
        self._closed, self._finished = False, False
        self._error: BaseException | None = None
        self.latency = Latency()
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._thread.start()

    # What a person does with it

    def push(self, samples: np.ndarray) -> None:
        """Say something; waits while :data:`MOST_WAITING` seconds are waiting already.

        Args:
            samples: ``(n,)`` float in [-1, 1], 16 kHz mono.

        Raises:
            UserError: if they are no such samples, or the session has ended.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise UserError("Sound must be finite floats (n,), 16 kHz mono.")
        came = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._sound.seconds_waiting < MOST_WAITING)
            if self.over or self._sound.ended:
                raise UserError("This session has ended: open another.")
            self._sound.push(np.clip(samples, -1, 1), came)
            self._changed.notify_all()

    def room(self) -> bool:
        """Whether :meth:`push` would not wait."""
        return self.over or self._sound.seconds_waiting < MOST_WAITING

    def end(self) -> None:
        """No more sound will come."""
        with self._changed:
            self._sound.ended = True
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Be quiet at once: what was pushed and not yet heard is dropped, and the head goes on in silence from what is
        seen now."""
        with self._changed:
            if self.over:
                return
            first = self._shown
            anew = self._span is not None
            if self._span is not None:
                spare = round(2 * self._needs * FPS) + 1 if self._paced else 0  # shown while the rest is made anew
                first = min(max(self._shown + spare, self._span.new.start), self._next)
                if first < self._chunk.continuity_frames:  # too few to go on from: it is made to its end, unheard
                    anew, first = False, self._next
            self._made = deque(self._hushed(moment) for moment in self._made if moment.number < first)
            self._next = first
            self._sound.cut(min(self._sound.placed, self._shown * SAMPLES_PER_FRAME))
            self._sound.advance(first * SAMPLES_PER_FRAME)
            self._restart = first if anew else None
            self._changed.notify_all()

    def _hushed(self, moment: Moment) -> Moment:
        fading = np.linspace(1, 0, SAMPLES_PER_FRAME, dtype=np.float32)
        first = moment.number == self._shown
        return replace(moment, sound=moment.sound * fading if first else np.zeros_like(moment.sound))

    def close(self) -> None:
        """End it now, and wait until its thread is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._closed or self._finished or self._error is not None

    @property
    def seconds(self) -> float:
        """How much has been shown."""
        return self._shown / FPS

    @property
    def made(self) -> int:
        """Frames that are made, shown or not."""
        return self._next

    @property
    def speaking(self) -> bool:
        """Whether sound that was pushed is still to be shown."""
        with self._changed:
            return self._sound.waiting > 0 or self._sound.said > self._shown * SAMPLES_PER_FRAME

    def moments(self) -> Iterator[Moment]:
        """The video, moment by moment, until the session ends.

        Raises:
            Exception: whatever went wrong in making it.
        """
        while (moment := self.take()) is not None:
            yield moment

    def take(self) -> Moment | None:
        """The next moment, when it is due; ``None`` when the session has ended."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._made or self.over)
                if self._error is not None:
                    raise self._error
                if self._closed or not self._made:
                    return None
                now = time.monotonic()
                early = self._due(self._shown) - now if self._paced and self._start is not None else 0.0
                if early <= 0:
                    break
                self._changed.wait(early)
            if self._paced and (self._start is None or now > self._due(self._shown) + 1 / FPS):
                if self._start is not None:
                    self.latency.late(now - self._due(self._shown))
                self._start = now - self._shown / FPS
            moment = self._made.popleft()
            self._shown = moment.number + 1
            self.latency.shown(self._sound.came(moment.number), now)
            self._changed.notify_all()
            return moment

    # What its thread does

    def _due(self, frame: int) -> float:
        """When a frame is to be shown; before the first was, at once."""
        return -inf if self._start is None else self._start + frame / FPS

    @property
    def _urgency(self) -> float:
        """When what is made next is due; before anything is shown that of others comes first."""
        return time.monotonic() + 1 if self._start is None else self._due(self._next)

    def _run(self) -> None:
        with contextlib.suppress(_ClosedError):
            try:
                sampler = self._pipeline.sampler(self._request)
                course = Course(self, self._spans(), self._chunk, self._ready)
                chunks = self._pipeline.chunks(self._request, self._inputs, course, sampler)
                while True:
                    with self._pipeline.turns.due(self._urgency):
                        made = next(chunks, None)
                    if made is None:
                        break
                    if self._restart is None:
                        self._show(self._pipeline.shown(made, self._inputs))
            except _ClosedError:
                raise
            except BaseException as error:  # for whoever reads the moments
                self._error = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _show(self, parts: Iterator[Callable[[], np.ndarray]]) -> None:
        """Put the frames of a chunk out, as far as no interruption takes them back."""
        first = True
        while True:
            with self._pipeline.turns.due(self._urgency):
                fetch = next(parts, None)
            if fetch is None:
                return
            pictures = [self._mark(picture) for picture in fetch()]
            with self._changed:
                if self._closed:
                    raise _ClosedError
                if self._restart is not None:
                    return
                if first:
                    self._measure()
                    first = False
                for picture in pictures:
                    place = self._next * SAMPLES_PER_FRAME
                    sound = self._sound.read(place, place + SAMPLES_PER_FRAME)
                    self._made.append(Moment(self._next, picture, sound))
                    self._next += 1
                self._changed.notify_all()

    def _measure(self) -> None:
        """Note how soon the first frame of a chunk is there; that of a video waits for the portrait too."""
        if self._index == 1:
            return
        now = time.monotonic()
        self.latency.needed(now - self._begun)
        self._needs = self.latency.needs
        if self._start is not None:
            self._early.append(self._due(self._next) - now)

    def frames(self, start: int, stop: int) -> Tensor:
        """Features of frames, see :class:`asymtalker.rollout.FrameFeatures`; of the sound that has its place."""
        if self._live is None:
            return self._features.frames(start, stop)
        total = self._sound.num_samples
        whole = total is not None and self._heard * SAMPLES_PER_FRAME > total  # silence follows, which is known too
        return self._features.latest(start, stop, (stop if whole else self._heard) - stop, LIVE_PAST)

    def _spans(self) -> Iterator[Span]:
        """The chunks, each when :meth:`_ready` has let it begin."""
        while self._span is not None:
            yield self._span

    def _ready(self) -> None:
        """Wait until the next chunk can begin, and its sound has its place; see :class:`asymtalker.rollout.Course`."""
        with self._changed:
            may_catch_up = self._keeps_up
            while True:
                if self._closed:
                    raise _ClosedError
                span = self._next_span()
                if span is None:
                    break
                if not self._can_begin(span):
                    self._changed.wait(self._patience(span))
                    continue
                if self._paced and self._keeps_up and (late := self._sound.skip_late(time.monotonic() - MOST_BEHIND)):
                    self.latency.left_out(late / SAMPLE_RATE)
                    continue
                if not (may_catch_up and self._catch_up(span)):
                    break
                may_catch_up = False  # more at once would be heard
            self._restart = None
            self._span = span
            if span is None:
                return
            self._index += 1
            self._heard = self._last_heard(span)
            whole = self._sound.num_samples if self._live is None else None  # all of a level that is measured
            self._sound.advance(whole or self._heard * SAMPLES_PER_FRAME, RESERVE if self._paced else 0)
            past = BLOCK_FRAMES + CONTEXT_FRAMES if self._live is None else 0
            oldest = min(span.start - LIVE_PAST - self._chunk.frames - past, self._shown)
            self._sound.forget(oldest * SAMPLES_PER_FRAME)
            self._begun = time.monotonic()
            self._changed.notify_all()

    def _next_span(self) -> Span | None:
        """The chunk that comes next; ``None`` where all sound is in chunks already."""
        total = self._sound.num_samples
        last = inf if total is None else frames_of_samples(total)
        if self._next >= last:
            return None
        chunk, first = self._chunk, self._next
        new = chunk.frames - chunk.continuity_frames if self._live is None else self._live.new
        new += 0 if self._index else chunk.continuity_frames
        span = live_span(self._index, first, new, chunk.frames, chunk.continuity_frames)
        return replace(span, new=range(first, int(min(span.new.stop, last))))

    def _last_heard(self, span: Span) -> int:
        """The frame up to which sound has to have its place before a chunk begins."""
        context = self._pipeline.transformer.config.audio_context
        if self._live is not None:
            return span.new.stop + self._live.ahead
        last = span.stop + context - 1
        return (last // BLOCK_FRAMES + 1) * BLOCK_FRAMES + CONTEXT_FRAMES

    def _can_begin(self, span: Span) -> bool:
        """Whether a chunk can begin: there is room for its frames, and its sound has come or is not waited for."""
        if len(self._made) > (2 * self._live.new if self._live else self._chunk.frames):
            return False
        if self._missing(span) <= 0 or self._sound.ended:
            return True
        return self._paced and time.monotonic() >= self._latest(span)

    def _missing(self, span: Span) -> int:
        """Samples that have not come yet of those that a chunk hears; below 0 where more wait."""
        return self._last_heard(span) * SAMPLES_PER_FRAME - self._sound.placed - self._sound.waiting

    def _catch_up(self, span: Span) -> bool:
        """Leave out a quiet moment of the sound before a chunk, so that the video is less far behind it: a frame where
        more sound waits than has to, or as much as the last chunks were all there before they had to be."""
        calm = len(self._early) == WATCHED and self.latency.seconds_since_late() > CALM
        spare = min(self._early) - (MARGIN - 1) * self._needs if calm else 0.0
        most = SAMPLES_PER_FRAME if -self._missing(span) > RESERVE + BEHIND else round(spare * SAMPLE_RATE)
        if most < SKIPPED or not self._sound.skip_quiet(min(most, SAMPLES_PER_FRAME)):
            return False
        self._early.clear()
        return True

    def _latest(self, span: Span) -> float:
        """When a chunk has to begin, that its first frame may be there in time."""
        return self._due(span.new.start) - MARGIN * self._needs

    def _patience(self, span: Span) -> float | None:
        """Seconds to wait for something to change."""
        if not self._paced:
            return None
        return max(0.0, min(1.0, self._latest(span) - time.monotonic()))


class _ClosedError(Exception):
    """The session was closed."""
