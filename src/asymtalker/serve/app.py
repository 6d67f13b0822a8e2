"""The API: jobs over REST, a video that plays while it is made, health and metrics; and the page beside it."""

import asyncio
import hmac
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, Header, HTTPException, Request, UploadFile
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel

import asymtalker
from asymtalker.media.portrait import SMALLEST_SIDE
from asymtalker.models.motion.control import MOST
from asymtalker.serve.decoding import RefusedError
from asymtalker.serve.guard import COOKIE, BrokenError, Guard, cookie_value
from asymtalker.serve.jobs import ENDED, Job, State
from asymtalker.serve.service import CONSENT, MOST_SEED, Box, Options, Service
from asymtalker.serve.uploads import Prepared
from asymtalker.serve.voices import voices
from asymtalker.timeline import FPS

POLL = 0.03  # seconds between two looks at a file that grows
BLOCK = 1 << 16
JobId = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$", description="What creating the job gave.")]


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str


class Kept(BaseModel):
    """How a video is made."""

    seed: int
    motion: float
    gaze: str
    blinks: bool
    size: int


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    state: State
    frames_done: int
    frames_total: int
    seconds: float
    """Of the video."""
    ahead: int | None
    """Jobs that are made before it; null once it has ended."""
    eta_seconds: float | None
    """Until it is likely to be done; null once it has ended."""
    created: datetime
    started: datetime | None
    ended: datetime | None
    expires: datetime
    """When it is deleted with all its files; portrait and voice are as soon as it ends."""
    consent: datetime
    """When consent was declared."""
    error: str | None
    remarks: list[str]
    options: Kept
    links: dict[str, str]


class Terms(BaseModel):
    """What the server takes, keeps and asks for."""

    consent: str
    video_hours: float
    upload_minutes: float
    request_mb: float
    megapixels: float
    picture_side: int
    sound_seconds: float
    text_characters: int
    video_side: int
    voices: dict[str, str]


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "loading", "failed"]
    detail: str = ""


def view(service: Service, job: Job) -> JobView:
    """A job as its owner sees it."""
    place, here = service.jobs.place(job), f"/v1/jobs/{job.id}"
    links = {"self": here, "stream": f"{here}/stream"} | ({"video": f"{here}/video"} if job.state == "done" else {})

    def moment(time: float | None) -> datetime | None:
        return None if time is None else datetime.fromtimestamp(time, UTC)

    return JobView(
        id=job.id,
        state=job.state,
        frames_done=job.frames_done,
        frames_total=job.frames_total,
        seconds=job.frames_total / FPS,
        ahead=place and place[0],
        eta_seconds=place and round(place[1], 1),
        created=datetime.fromtimestamp(job.created, UTC),
        started=moment(job.started),
        ended=moment(job.ended),
        expires=datetime.fromtimestamp(job.expires, UTC),
        consent=datetime.fromtimestamp(job.consent, UTC),
        error=job.error,
        remarks=job.remarks,
        options=Kept(**job.options),
        links=links,
    )


async def follow(service: Service, id: str) -> AsyncIterator[bytes]:
    """The bytes of a job's video while it is made; waits for its turn, and ends with it.

    Raises:
        BrokenError: if the job fails, is cancelled or deleted meanwhile.
    """
    path: Path = service.jobs.files(id) / "live.mp4"
    while not path.exists():
        job = await asyncio.to_thread(service.jobs.find, id)
        if job is None or job.state in ENDED:
            raise BrokenError
        await asyncio.sleep(POLL)
    with path.open("rb") as file:
        begun, ended = await asyncio.to_thread(service.jobs.find, id), False
        while True:
            if block := file.read(BLOCK):
                yield block
            elif ended:
                return
            else:
                await asyncio.sleep(POLL)
                job = await asyncio.to_thread(service.jobs.find, id)
                lost = job is None or begun is None or job.attempts != begun.attempts  # it is made anew
                if job is None or lost or job.state in ("failed", "cancelled"):
                    raise BrokenError
                ended = job.state == "done"  # and then what was written just before is read


class JobForm:
    """What a job is made of, as a form's fields."""

    def __init__(
        self,
        portrait: Annotated[UploadFile, File(description="A picture with a face: JPEG, PNG, WebP or HEIC.")],
        consent: Annotated[bool, Form(description=f"Has to be true. It says: {CONSENT}")],
        sound: Annotated[UploadFile | None, File(description="Speech: wav, mp3, m4a, flac, ogg, webm.")] = None,
        text: Annotated[str | None, Form(description="What is to be said, where there is no sound.")] = None,
        voice: Annotated[str | None, Form(description="Of a text: an id of /v1/terms.")] = None,
        seed: Annotated[int, Form(ge=0, le=MOST_SEED)] = 0,
        motion: Annotated[float, Form(ge=0, le=MOST)] = 1.0,
        gaze: Annotated[Literal["free", "camera"], Form()] = "free",
        blinks: Annotated[bool, Form()] = True,
        size: Annotated[int, Form(ge=SMALLEST_SIDE, description="Pixels of the video's longer side.")] = 512,
        face: Annotated[int | None, Form(ge=1, description="Which face, counted from 1, the largest.")] = None,
        framing: Annotated[Literal["whole", "face", "box"], Form()] = "whole",
        box: Annotated[str | None, Form(description="left,top,right,bottom as shares of the picture.")] = None,
    ):
        self.portrait, self.sound, self.text, self.voice = portrait, sound, text, voice
        self.consent, self.face = consent, face
        self.options = Options(
            seed=seed, motion=motion, gaze=gaze, blinks=blinks, size=size, framing=framing, box=_box(box)
        )


async def no_other_fields(request: Request) -> None:
    """Raises RefusedError if a form has a field of another name, which would do nothing."""
    known = list(inspect.signature(JobForm).parameters)
    if unknown := sorted((await request.form()).keys() - set(known)):
        raise RefusedError(f"There is no field {unknown[0][:40]!r}: there are {', '.join(known)}.")


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise RefusedError("box is left,top,right,bottom, such as 0.1,0,0.9,0.8.") from None
    return left, top, right, bottom


def submit(service: Service, form: JobForm, address: str, client: str) -> Job:
    """A job of a form: everything that can be refused is, before it is queued.

    Raises:
        RefusedError: with the reason.
    """
    if form.consent is not True:
        raise RefusedError(f"Consent is needed, consent=true. It says: {CONSENT}")
    if (form.sound is None) == (form.text is None):
        raise RefusedError("Give a sound or a text, one of them.")
    service.check_room(address)
    voice = known_voice(form.voice) if form.sound is None else ""
    with ThreadPoolExecutor(2) as both, ExitStack() as kept:
        works = [both.submit(_picture, service, form), both.submit(_sound, service, form, voice)]
        for work in works:
            kept.callback(lambda work=work: work.exception() or work.result().path.unlink(missing_ok=True))
        picture, sound = (work.result() for work in works)
        return service.submit(picture, sound, form.options, consent=form.consent, address=address, client=client)


def _picture(service: Service, form: JobForm) -> Prepared:
    with service.uploads.kept(form.portrait.file) as path:
        return service.uploads.picture(path, form.face)


def _sound(service: Service, form: JobForm, voice: str) -> Prepared:
    if form.sound is None:
        return service.uploads.spoken(form.text or "", voice)
    with service.uploads.kept(form.sound.file) as path:
        return service.uploads.sound(path)


def known_voice(id: str | None) -> str:
    """The id of a voice, the first one by default.

    Raises:
        RefusedError: if there is no such voice here.
    """
    known = voices()
    if not known:
        raise RefusedError("This server speaks no texts: give a sound.")
    if id is not None and id not in known:
        raise RefusedError(f"There is no voice {id[:40]!r} here: /v1/terms lists them.")
    return id or next(iter(known))


Answers = dict[int | str, dict[str, Any]]


def _problems(*statuses: int) -> Answers:
    return {status: {"model": Problem} for status in (*statuses, 401, 403, 408, 413, 421, 429)}


def create_app(
    service: Service, token: str | None = None, extend: Callable[[FastAPI, Service], None] | None = None
) -> FastAPI:
    """The application.

    Args:
        service: uploads, jobs and workers; started and closed with the application.
        token: what clients have to know, if anything.
        extend: adds routes of other modules.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="AsymTalker",
        version=asymtalker.__version__,
        description="Talking-head videos from one portrait and a voice. Every video is synthetic and says so.",
        docs_url=None,  # which would fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(
        Guard, token=token, limits=service.settings.limits, metrics=service.metrics, hosts=[service.settings.host]
    )
    _explain_refusals(app)
    _add_health(app, service)
    _add_jobs(app, service)
    _add_ends(app, service)
    _add_login(app, token)
    if extend is not None:
        extend(app, service)
    return app


def _explain_refusals(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return JSONResponse({"detail": f"{where}: {first['msg'].rstrip('.')}."}, 422)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], responses=_problems())
    def healthz() -> Health:
        """Whether the server answers."""
        return Health(status="ok")

    @app.get("/readyz", tags=["health"], responses=_problems() | {503: {"model": Health}})
    def readyz() -> JSONResponse:
        """Whether videos can be made: the model is loaded and warm."""
        if service.ready.is_set():
            return JSONResponse(Health(status="ok").model_dump())
        state = Health(status="failed", detail=service.problem) if service.problem else Health(status="loading")
        return JSONResponse(state.model_dump(), 503)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse, responses=_problems())
    def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/terms", tags=["jobs"], responses=_problems())
    def terms() -> Terms:
        """What is taken, for how long it is kept, and what consent says."""
        settings, limits = service.settings, service.settings.limits
        return Terms(
            consent=CONSENT,
            video_hours=settings.video_hours,
            upload_minutes=settings.upload_minutes,
            request_mb=limits.request_mb,
            megapixels=limits.megapixels,
            picture_side=limits.picture_side,
            sound_seconds=limits.sound_seconds,
            text_characters=limits.text_characters,
            video_side=limits.video_side,
            voices=voices(),
        )


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


Client = Annotated[
    str, Header(alias="X-Client", max_length=64, description="Who takes turns, of those at one address.")
]


VIDEO: Answers = {200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}}


def _known(service: Service, id: str) -> Job:
    job = service.jobs.find(id)
    if job is None:
        raise HTTPException(404, "There is no such job: it was deleted, or has expired.")
    return job


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/jobs",
        tags=["jobs"],
        status_code=202,
        responses=_problems(400, 415, 422, 503),
        dependencies=[Depends(no_other_fields)],
    )
    def create(request: Request, form: Annotated[JobForm, Depends()], client: Client = "") -> JobView:
        """Queue a video."""
        return view(service, submit(service, form, _address(request), client))

    @app.post(
        "/v1/stream",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses=_problems(400, 415, 422, 503) | VIDEO,
        dependencies=[Depends(no_other_fields)],
    )
    def create_and_follow(request: Request, form: Annotated[JobForm, Depends()], client: Client = "") -> Any:
        """Queue a video and get it as fragmented MP4 while it is made. ``Location`` is its job."""
        job = submit(service, form, _address(request), client)
        headers = {"Location": f"/v1/jobs/{job.id}", "Cache-Control": "no-store"}
        return StreamingResponse(follow(service, job.id), media_type="video/mp4", headers=headers)

    @app.get("/v1/jobs/{id}", tags=["jobs"], responses=_problems(404, 422))
    def status(id: JobId) -> JobView:
        """How far it is."""
        return view(service, _known(service, id))


def _add_ends(app: FastAPI, service: Service) -> None:
    @app.delete("/v1/jobs/{id}", tags=["jobs"], status_code=204, responses=_problems(404, 422))
    def delete(id: JobId) -> None:
        """Forget it and all its files at once; stop it if need be."""
        _known(service, id)
        service.jobs.delete(id)

    @app.post("/v1/jobs/{id}/cancel", tags=["jobs"], responses=_problems(404, 409, 422))
    def cancel(id: JobId) -> JobView:
        """Stop it. Its record stays until it expires."""
        _known(service, id)
        if not service.jobs.end(id, "cancelled"):
            raise HTTPException(409, "It has ended already.")
        return view(service, _known(service, id))

    @app.get(
        "/v1/jobs/{id}/video", tags=["jobs"], response_class=FileResponse, responses=_problems(404, 409, 422) | VIDEO
    )
    def result(id: JobId) -> FileResponse:
        """The finished video."""
        if (state := _known(service, id).state) != "done":
            raise HTTPException(409, f"There is no video: the job is {state}.")
        path = service.jobs.files(id) / "video.mp4"
        return FileResponse(path, media_type="video/mp4", filename=f"asymtalker-{id[:8]}.mp4")

    @app.get(
        "/v1/jobs/{id}/stream",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses=_problems(404, 409, 422) | VIDEO,
    )
    def stream(id: JobId) -> StreamingResponse:
        """The video from its beginning, as fragmented MP4, while it is made."""
        if (state := _known(service, id).state) in ("failed", "cancelled"):
            raise HTTPException(409, f"There is no video: the job is {state}.")
        return StreamingResponse(follow(service, id), media_type="video/mp4", headers={"Cache-Control": "no-store"})


LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>AsymTalker: token</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>body{font:1.1rem/1.5 system-ui;max-width:26rem;margin:15vh auto;padding:0 1rem}
input,button{font:inherit;padding:.6rem;width:100%;box-sizing:border-box;margin:.4rem 0}</style>
<main><h1>AsymTalker</h1><form method="post"><label for="token">The server's token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<p role="alert">{said}</p><button>Enter</button></form></main></html>"""


def _add_login(app: FastAPI, token: str | None) -> None:
    if token is None:
        return

    def page(said: str, status: int = 200) -> HTMLResponse:
        return HTMLResponse(LOGIN.replace("{said}", escape(said)), status)

    @app.get("/login", include_in_schema=False)
    def ask() -> HTMLResponse:
        return page("")

    @app.post("/login", include_in_schema=False)
    def enter(request: Request, given: Annotated[str, Form(alias="token", max_length=4096)]) -> HTMLResponse:
        if not hmac.compare_digest(given.strip().encode(), token.encode()):
            return page("That is not the token.", 401)
        response = HTMLResponse(status_code=303, headers={"Location": "/"})
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie_value(token), httponly=True, samesite="strict", secure=secure)
        return response
