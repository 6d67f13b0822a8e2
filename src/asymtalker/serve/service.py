"""What the page and the API both stand on: uploads in, jobs out, within limits."""

import hashlib
import hmac
import logging
import shutil
import threading
from dataclasses import asdict, dataclass
from typing import Any, Literal

from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.picture import MIN_PICTURE_SIDE
from asymtalker.media.portrait import FACE_CENTRE, FACE_SHARE, SMALLEST_SIDE
from asymtalker.models.motion.control import MOST
from asymtalker.serve.decoding import RefusedError
from asymtalker.serve.jobs import Job, Jobs
from asymtalker.serve.metrics import Metrics
from asymtalker.serve.settings import CONSENT, Serve, replica_range
from asymtalker.serve.uploads import Prepared, Uploads
from asymtalker.serve.worker import Maker, Workers
from asymtalker.timeline import frames_of_samples

log = logging.getLogger("asymtalker.serve")
SWEPT_EVERY = 20.0  # seconds
MOST_SEED = 2**31 - 1
FULL, TOO_MANY = 503, 429
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a video is to be made.

    Attributes:
        seed: another one moves otherwise.
        motion, gaze, blinks: see :class:`asymtalker.models.motion.control.MotionControl`.
        size: pixels of the video's longer side, at most the picture's own.
        framing: the whole picture, what is around the face, or ``box``.
        box: left, top, right and bottom of the part that is shown, as shares of the picture.

    Raises:
        RefusedError: if a value is out of range.
    """

    seed: int = 0
    motion: float = 1.0
    gaze: Literal["free", "camera"] = "free"
    blinks: bool = True
    size: int = 512
    framing: Literal["whole", "face", "box"] = "whole"
    box: Box | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.motion <= MOST:
            raise RefusedError(f"motion is from 0 to {MOST:g}.")
        if not 0 <= self.seed <= MOST_SEED:
            raise RefusedError(f"seed is from 0 to {MOST_SEED}.")
        if self.size < SMALLEST_SIDE:
            raise RefusedError(f"size is at least {SMALLEST_SIDE}.")
        if (self.framing == "box") != (self.box is not None):
            raise RefusedError("box and framing=box go together.")
        if self.box is not None and not (0 <= self.box[0] < self.box[2] <= 1 and 0 <= self.box[1] < self.box[3] <= 1):
            raise RefusedError("box is left, top, right and bottom, as shares of the picture from 0 to 1.")

    def plain(self) -> dict[str, Any]:
        """As plain values, without what the picture was cut by already."""
        return {name: value for name, value in asdict(self).items() if name not in ("framing", "box")}


def shown_part(picture: Prepared, options: Options) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels of what a video shows of a picture."""
    width, height = picture.width, picture.height
    if options.framing == "box" and options.box is not None:
        shares = options.box
        left, top = round(shares[0] * width), round(shares[1] * height)
        return left, top, max(left + 2, round(shares[2] * width)), max(top + 2, round(shares[3] * height))
    if options.framing == "face":
        face_left, face_top, face_width, face_height = picture.face
        side = round(min(max(face_width, face_height) / FACE_SHARE, width, height))
        left = min(max(0, round(face_left + face_width / 2 - FACE_CENTRE[0] * side)), width - side)
        top = min(max(0, round(face_top + face_height / 2 - FACE_CENTRE[1] * side)), height - side)
        return left, top, left + side, top + side
    return 0, 0, width, height


def cut_picture(picture: Prepared, options: Options) -> Image.Image:
    """What a video shows of a picture; its size is even.

    Raises:
        RefusedError: if that is too small, or leaves out a part of the face.
    """
    left, top, right, bottom = shown_part(picture, options)
    right, bottom = right - (right - left) % 2, bottom - (bottom - top) % 2
    if min(right - left, bottom - top) < MIN_PICTURE_SIDE:
        raise RefusedError(f"The part of the picture is smaller than {MIN_PICTURE_SIDE} pixels: take a larger one.")
    face_left, face_top, face_width, face_height = picture.face
    inside = left <= face_left + face_width / 4 and right >= face_left + face_width * 3 / 4
    if not inside or top > face_top + face_height / 4 or bottom < face_top + face_height * 3 / 4:
        raise RefusedError("The part of the picture leaves out the face: move or widen it.")
    with Image.open(picture.path) as whole:
        return whole.convert("RGB").crop((left, top, right, bottom))


class Service:
    """Uploads, jobs and workers of a server.

    Args:
        settings: what the server was told.
        make: what makes the videos; by default a pipeline in this process, or replicas, as the settings say, which
            :meth:`start` loads.

    Raises:
        UserError: if the folder can't be used.
    """

    def __init__(self, settings: Serve, make: Maker | None = None):
        self.settings, self.metrics = settings, Metrics()
        self.jobs = Jobs(settings.data, 3600 * settings.video_hours, 60 * settings.upload_minutes)
        self.uploads = Uploads(settings.data / "uploads", settings.limits)
        self.uploads.clear()
        self.ready = threading.Event()
        self.problem: str | None = None
        self._make = make
        self._salt = self.jobs.secret("clients")
        self._workers: Workers | None = None
        self._closing = threading.Event()
        self._accepting = threading.Lock()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._start, self._sweep)]
        self.metrics.watch(self.jobs.count)

    @property
    def maker(self) -> Maker | None:
        """What makes the videos, once it is loaded; a
        :class:`~asymtalker.serve.making.LocalMaker` has the pipeline."""
        return self._make

    def start(self) -> None:
        """Load the model, warm it up and begin with the jobs, in a thread."""
        for thread in self._threads:
            thread.start()

    def _start(self) -> None:
        try:
            self.uploads.warm_up()
            settings = self.settings
            # what is imported and loaded here takes seconds, in which the server answers already
            if self._make is None and settings.ray is not None:
                from asymtalker.serve.replicas import RayMaker

                self._make = RayMaker(settings)
            elif self._make is None:
                from asymtalker.serve.making import LocalMaker

                maker = LocalMaker(settings.model, settings.device, settings.inference)
                if not self._closing.is_set():
                    maker.warm_up()
                self._make = maker
        except UserError as error:
            self.problem = str(error)
            log.error("the model can't be loaded: %s", error)
            return
        except ModuleNotFoundError as error:
            self.problem = f"{error.name} is not installed: pip install -c constraints.txt '.[serve,ray]'."
            log.error("the model can't be loaded: %s", self.problem)
            return
        except Exception:
            self.problem = "The model can't be loaded; the server's log says why."
            log.exception("the model can't be loaded")
            return
        if self._closing.is_set():
            return
        self._workers = Workers(
            self.jobs, self._make, replica_range(settings.replicas)[1], self.metrics.first_frame.observe
        )
        self._workers.start()
        self.ready.set()
        log.info("ready")

    def _sweep(self) -> None:
        while not self._closing.wait(SWEPT_EVERY):
            try:
                self.jobs.sweep()
                self.uploads.clear(older_than=60 * self.settings.upload_minutes)
            except Exception:
                log.exception("sweeping failed")

    def close(self) -> None:
        """Stop; what is not done yet is done after the next start. A model that is being loaded is waited for: its
        libraries would abort a process that ends meanwhile."""
        self._closing.set()
        if self._threads[0].is_alive() and not self.ready.is_set():
            log.info("the model is still being loaded, which is waited for; Ctrl-C once more ends at once")
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        if self._workers is not None:
            self._workers.stop()
        if self._make is not None:
            self._make.close()
        self.uploads.close()
        self.jobs.close()

    def address_key(self, address: str) -> str:
        """What an address is called in records and in memory: a keyed hash."""
        return hmac.new(self._salt, address.encode(), hashlib.sha256).hexdigest()[:16]

    def check_room(self, address: str) -> None:
        """Check that one more job of an address may be taken.

        Raises:
            RefusedError: with 429 if it has too many, with 503 if all together are too many or the disk is full.
        """
        limits, own, all_jobs = self.settings.limits, self.jobs.count(self.address_key(address)), self.jobs.count()
        if own["queued"] + own["running"] >= limits.waiting_each:
            raise RefusedError(f"You have {limits.waiting_each} jobs waiting: wait for one to be done.", TOO_MANY)
        if all_jobs["queued"] + all_jobs["running"] >= limits.waiting or sum(all_jobs.values()) >= limits.kept:
            raise RefusedError("Too much is asked for at the moment: try again later.", FULL)
        if shutil.disk_usage(self.settings.data).free < limits.free_mb * (1 << 20):
            raise RefusedError("The server's disk is full: try again later.", FULL)

    def submit(
        self, picture: Prepared, sound: Prepared, options: Options, *, consent: bool, address: str, client: str = ""
    ) -> Job:
        """Queue a job.

        Args:
            picture: the portrait.
            sound: the voice.
            options: how the video is to be made.
            consent: that :data:`CONSENT` holds, without which nothing is made.
            address: of whoever asks.
            client: who takes turns, of those at one address.

        Raises:
            RefusedError: without consent, beyond the limits, or if the picture can't be shown so.
        """
        if consent is not True:
            raise RefusedError(f"Consent is needed, consent=true. It says: {CONSENT}")
        limits = self.settings.limits
        if options.size > limits.video_side:
            raise RefusedError(f"size is at most {limits.video_side}.")
        shown = cut_picture(picture, options)
        size = min(options.size, max(shown.size)) // 2 * 2
        key = self.address_key(address)
        with self._accepting:  # or two at once would both find the last place free
            self.check_room(address)
            id = self.jobs.new_id()
            folder = self.jobs.files(id)
            folder.mkdir(mode=0o700)
            try:
                shown.save(folder / "portrait.png", format="PNG", compress_level=1)
                shutil.copyfile(sound.path, folder / "sound.wav")
                return self.jobs.create(
                    id,
                    client=f"{key}:{hashlib.sha256(client.encode()).hexdigest()[:16]}" if client else key,
                    address=key,
                    options=options.plain() | {"size": size},
                    frames_total=frames_of_samples(sound.samples),
                    remarks=[*picture.remarks, *sound.remarks],
                )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
