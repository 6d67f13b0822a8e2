"""The page, by Gradio: portrait, voice and consent in; a video that plays while it is made. What plays it is page.js,
which asks the API."""

import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from PIL import Image

from asymtalker.models.motion.control import MOST
from asymtalker.serve.decoding import RefusedError
from asymtalker.serve.service import CONSENT, MOST_SEED, Options, Service, shown_part
from asymtalker.serve.uploads import Prepared
from asymtalker.serve.voices import voices
from asymtalker.timeline import SAMPLE_RATE

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
FRAMINGS = {"The whole picture": "whole", "Around the face": "face", "As set below": "box"}
SIZES = {"256 pixels, quickest": 256, "512 pixels": 512, "720 pixels": 720, "1280 pixels, slowest": 1280}
DEMO_TEXT = "Hello! I was drawn by a computer. Type what I should say, and I will say it."
PREVIEW = 480  # pixels
LINK_TO_LIVE = (
    "<p>Speak into the microphone, and the portrait speaks:"
    " <a href='/live' target='_blank'>open the live page</a>."
    " Ask who is seen and heard first, and tell who watches that it is synthetic.</p>"
)


def _path_of(payload: Any) -> str | None:
    """The path that Gradio has put an upload under."""
    return payload.path if payload is not None else None


def _read(name: str) -> str:
    return (resources.files("asymtalker.serve") / name).read_text(encoding="utf-8")


def mount_page(app: FastAPI, service: Service, live: bool = False) -> None:
    """Put the page at ``/``.

    Args:
        app: the application.
        service: its uploads and jobs.
        live: whether it links to the live page, ``/live``.
    """
    folder = (service.settings.data / "page").resolve()
    shutil.rmtree(folder, ignore_errors=True)  # what a killed server has left of its visitors
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=("monospace",)).set(
        # white on Gradio's own shades can't be read well
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        color_accent="*primary_700",
        # nor are boxes seen that have the colours of what is around them
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )
    gr.mount_gradio_app(
        app,
        build_page(service, live),
        path="/",
        theme=theme,
        css=_read("page.css"),
        head=f"<script>{_read('page.js')}</script>",
        footer_links=[],
        show_error=False,
        max_file_size=int(service.settings.limits.request_mb * (1 << 20)),
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        ssr_mode=False,
        pwa=False,
    )


def build_page(service: Service, live: bool = False) -> gr.Blocks:
    """The page; see :func:`mount_page`."""
    age = int(60 * service.settings.upload_minutes)
    with gr.Blocks(title="AsymTalker", analytics_enabled=False, delete_cache=(60, age), fill_width=False) as page:
        gr.Markdown("# AsymTalker\nA talking video of one portrait and a voice. Every video is synthetic and says so.")
        with gr.Tabs():
            with gr.Tab("Create"):
                _Create(service)
            if live:
                with gr.Tab("Live"):
                    gr.HTML(LINK_TO_LIVE)
            with gr.Tab("What is kept"):
                gr.Markdown(_kept(service))
    page.queue(default_concurrency_limit=16, max_size=64)
    return page


def _kept(service: Service) -> str:
    settings = service.settings
    return (
        "- **Portrait and voice** of a video are deleted as soon as it is done. What you gave to this page is kept for"
        f" {settings.upload_minutes:g} minutes, so that you can make another of it.\n- **Videos** and their records"
        f" are deleted after {settings.video_hours:g} hours, or at once by *Delete* in the history.\n- The **history**"
        " is kept by your browser alone.\n- The server's log names nobody: no addresses, no texts, no files.\n-"
        " **Consent** is asked for each video, and when it was given is kept with the video's record. It says:"
        f" *{CONSENT}*"
    )


class _Create:
    """The tab that makes videos: its parts, and what happens when they are touched."""

    def __init__(self, service: Service):
        self._service = service
        age = 60 * service.settings.upload_minutes
        self.picture = gr.State(None, time_to_live=age, delete_callback=_forget)
        self.sound = gr.State(None, time_to_live=age, delete_callback=_forget)
        self.job = gr.JSON(visible=False)
        with gr.Row(elem_id="at-columns"):
            with gr.Column(scale=5, min_width=320):
                self._portrait_part()
                self._voice_part()
                self._motion_part()
            with gr.Column(scale=6, min_width=320, elem_id="at-right"):
                gr.HTML(_read("page.html"), elem_id="at-panel")
        self._wire()

    def _portrait_part(self) -> None:
        with gr.Group():
            gr.Markdown("## 1. Portrait", elem_classes="at-step")
            self.portrait = gr.Image(
                label="A face from the front, eyes open, lips closed",
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                image_mode=None,
                height=260,
                elem_id="at-portrait",
                buttons=[],
            )
            # the file is given on as it came: nothing in this process looks into it
            self.portrait.preprocess = _path_of
            self.portrait_said = gr.Markdown(elem_id="at-portrait-said", elem_classes="at-said", container=False)
            self.framing = gr.Radio(list(FRAMINGS), value="The whole picture", label="What the video shows")
            with gr.Group(visible=False) as self.own:
                self.zoom = gr.Slider(1, 4, 1.3, step=0.05, label="Zoom", buttons=[])
                self.across = gr.Slider(0, 1, 0.5, step=0.01, label="From left to right", buttons=[])
                self.down = gr.Slider(0, 1, 0.5, step=0.01, label="From top to bottom", buttons=[])
            self.shown = gr.Image(
                label="This part will move",
                interactive=False,
                visible=False,
                height=220,
                format="jpeg",
                elem_id="at-shown",
                buttons=[],
                alt_text="The part of the portrait that the video will show",
            )

    def _voice_part(self) -> None:
        known = voices()
        with gr.Group():
            gr.Markdown("## 2. Voice", elem_classes="at-step")
            ways = ["A recording", "Typed text"] if known else ["A recording"]
            self.way = gr.Radio(ways, value=ways[0], label="What is spoken")
            self.recording = gr.Audio(
                label=f"Speech, up to {self._service.settings.limits.sound_seconds:g} seconds",
                sources=["upload", "microphone"],
                type="filepath",
                elem_id="at-sound",
                buttons=[],
                editable=False,
            )
            with gr.Group(visible=False) as self.typing:
                self.text = gr.Textbox(
                    label="Text",
                    lines=3,
                    max_length=self._service.settings.limits.text_characters,
                    elem_id="at-text",
                )
                choices = [(name, id) for id, name in known.items()]
                self.voice = gr.Dropdown(choices, value=next(iter(known), None), label="Spoken by")
            self.sound_said = gr.Markdown(elem_id="at-sound-said", elem_classes="at-said", container=False)
            with gr.Row():
                self.demo = gr.Button("Demo: portrait and recording", size="sm", elem_id="at-demo")
                self.demo_text = gr.Button(
                    "Demo: portrait and text", size="sm", elem_id="at-demo-text", visible=bool(known)
                )

    def _motion_part(self) -> None:
        largest = self._service.settings.limits.video_side
        with gr.Accordion("Motion, gaze, blinks, size", open=False):
            self.motion = gr.Slider(
                0, MOST, 1.0, step=0.05, label="Motion of head and brows", info="0 rests, 1 is as made", buttons=[]
            )
            self.gaze = gr.Radio(
                [("Free", "free"), ("At the camera, as in the portrait", "camera")], value="free", label="Gaze"
            )
            self.blinks = gr.Checkbox(True, label="Blinks")
            self.seed = gr.Number(
                0, label="Seed", info="Another one moves otherwise", minimum=0, maximum=MOST_SEED, precision=0
            )
            sizes = [(name, size) for name, size in SIZES.items() if size <= largest] or [(f"{largest}", largest)]
            usual = min(sizes, key=lambda one: abs(one[1] - 512))[1]
            self.size = gr.Dropdown(sizes, value=usual, label="Longer side of the video")
        self.consent = gr.Checkbox(False, label=CONSENT, elem_id="at-consent", container=False)
        self.generate = gr.Button("Generate", variant="primary", size="lg", elem_id="at-generate")

    def _wire(self) -> None:
        crop = [self.framing, self.zoom, self.across, self.down]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        checked = [self.picture, self.portrait_said, self.shown]
        self.portrait.change(self.check_portrait, [self.portrait, *crop], checked, **quiet)
        for part in crop:
            part.change(self.show_part, [self.picture, *crop], [self.shown], trigger_mode="always_last", **quiet)
        self.framing.change(
            lambda framing: gr.update(visible=FRAMINGS[framing] == "box"), [self.framing], [self.own], **quiet
        )
        self.recording.change(self.check_sound, [self.recording], [self.sound, self.sound_said], **quiet)
        self.way.change(self.choose_way, [self.way], [self.recording, self.typing, self.sound_said], **quiet)
        self.demo.click(self.use_demo, None, [self.portrait, self.recording, self.way], **quiet)
        self.demo_text.click(self.use_demo_text, None, [self.portrait, self.text, self.way], **quiet)
        options = [self.motion, self.gaze, self.blinks, self.seed, self.size]
        given = [self.picture, self.sound, self.way, self.text, self.voice, *crop, *options, self.consent]
        made = self.generate.click(self.create, given, [self.job], concurrency_limit=16, **quiet)
        made.then(None, [self.job], None, js="(job) => { window.asymtalker.begin(job); }")

    def check_portrait(self, path: str | None, *crop: Any) -> tuple[Prepared | None, str, Any]:
        """A portrait as it was given: what is wrong with it is said now, not after Generate."""
        if path is None:
            return None, "", gr.update(value=None, visible=False)
        uploads = self._service.uploads
        try:
            with open(path, "rb") as file, uploads.kept(file) as copy:
                picture = uploads.picture(copy)
        except RefusedError as error:
            return None, _wrong(error), gr.update(value=None, visible=False)
        return picture, _said(picture), self.show_part(picture, *crop)

    def show_part(self, picture: Prepared | None, framing: str, zoom: float, across: float, down: float) -> Any:
        """The part of a portrait that a video would show."""
        if picture is None or not picture.path.exists():
            return gr.update(value=None, visible=False)
        part = shown_part(picture, Options(**_crop(framing, zoom, across, down)))
        with Image.open(picture.path) as whole:
            shown = whole.convert("RGB").crop(part)
        shown.thumbnail((PREVIEW, PREVIEW))
        return gr.update(value=shown, visible=True)

    def check_sound(self, path: str | None) -> tuple[Prepared | None, str]:
        """A recording as it was given."""
        if path is None:
            return None, ""
        uploads = self._service.uploads
        try:
            with open(path, "rb") as file, uploads.kept(file) as copy:
                sound = uploads.sound(copy)
        except RefusedError as error:
            return None, _wrong(error)
        return sound, _said(sound, f"{sound.samples / SAMPLE_RATE:.1f} seconds.")

    def choose_way(self, way: str) -> tuple[Any, Any, str]:
        """A recording, or a text."""
        typed = way == "Typed text"
        return gr.update(visible=not typed), gr.update(visible=typed), ""

    def use_demo(self) -> tuple[str, str, str]:
        """The bundled portrait and speech."""
        return _demo("portrait.png"), _demo("speech.wav"), "A recording"

    def use_demo_text(self) -> tuple[str, str, str]:
        """The bundled portrait, and a text."""
        return _demo("portrait.png"), DEMO_TEXT, "Typed text"

    def create(
        self,
        picture: Prepared | None,
        sound: Prepared | None,
        way: str,
        text: str,
        voice: str,
        framing: str,
        zoom: float,
        across: float,
        down: float,
        motion: float,
        gaze: str,
        blinks: bool,
        seed: float,
        size: int,
        consent: bool,
        request: gr.Request,
    ) -> dict[str, Any]:
        """A job, as page.js takes it: its id, or what is wrong."""
        spoken = None
        try:
            if picture is None:
                raise RefusedError("Give a portrait that can be used first.")
            if way == "Typed text":
                sound = spoken = self._service.uploads.spoken(text or "", voice)
            elif sound is None:
                raise RefusedError("Give a voice first: a recording, or a typed text.")
            if not consent:
                raise RefusedError("Tick the box on consent and disclosure first.")
            options = Options(
                motion=motion,
                gaze="camera" if gaze == "camera" else "free",
                blinks=blinks,
                seed=int(seed or 0),
                size=int(size),
                **_crop(framing, zoom, across, down),
            )
            job = self._service.submit(
                picture,
                sound,
                options,
                consent=consent,
                address=request.client.host if request.client else "unknown",
                client=request.session_hash or "",
            )
            return {"id": job.id}
        except RefusedError as error:
            return {"error": str(error)}
        except FileNotFoundError:
            return {"error": "What you gave has expired: give portrait and voice again."}
        finally:
            _forget(spoken)


def _crop(framing: str, zoom: float, across: float, down: float) -> dict[str, Any]:
    """Framing and box of :class:`~asymtalker.serve.service.Options`."""
    kind = FRAMINGS[framing]
    if kind != "box":
        return {"framing": kind}
    share = 1 / max(1.0, zoom)
    left, top = (min(1.0, max(0.0, place)) * (1 - share) for place in (across, down))
    return {"framing": "box", "box": (left, top, min(1.0, left + share), min(1.0, top + share))}


def _forget(prepared: Prepared | None) -> None:
    if prepared is not None:
        prepared.path.unlink(missing_ok=True)


def _wrong(error: RefusedError) -> str:
    return f'<p class="at-error" role="alert">{error}</p>'


def _said(prepared: Prepared, first: str = "") -> str:
    return " ".join([first, *prepared.remarks]).strip()


def _demo(name: str) -> str:
    return str(Path(str(resources.files("asymtalker"))) / "assets" / "demo" / name)
