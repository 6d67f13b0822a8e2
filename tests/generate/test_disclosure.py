"""How generated files say what they are, from the request to the file."""

import signal
import threading

import numpy as np
import pytest
from PIL import Image

from asymtalker.commands.cli import main
from asymtalker.errors import UserError
from asymtalker.generate import pipeline as module
from asymtalker.generate.inputs import FileRequest
from asymtalker.media.video import probe_video, read_video
from asymtalker.models.motion.control import MotionControl
from asymtalker.provenance.credentials import read_credentials
from asymtalker.provenance.disclosure import NO_STATEMENT, Disclosure
from asymtalker.provenance.inspection import inspect_file
from asymtalker.provenance.origin import read_provenance, sha256_of
from asymtalker.timeline import SAMPLE_RATE
from signing import issue


def test_a_file_is_signed_tagged_and_marked(pipeline, portrait, voice, tmp_path):
    output = pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", seed=5)
    found = inspect_file(output)
    assert found.verdict == "intact"
    origin = found.credentials.origin
    assert origin == found.tags
    assert (origin.model, origin.model_version, origin.seed) == ("toy", pipeline.version, 5)
    assert len(pipeline.version) == 12
    assert origin.portrait_sha256 == sha256_of(portrait)
    assert origin.audio_sha256 == sha256_of(voice)
    assert (origin.options, origin.consent, origin.watermarked) == ({}, NO_STATEMENT, True)
    assert found.credentials.complete
    assert found.credentials.seconds == pytest.approx(31 / 25)
    assert found.watermark_agrees


def test_the_same_request_gives_the_same_pictures_and_number(pipeline, portrait, sound, tmp_path):
    voice = (sound[:6000], SAMPLE_RATE)
    first, second = (pipeline.generate_to_file(portrait, voice, tmp_path / f"{name}.mp4") for name in "ab")
    assert np.array_equal(read_video(first)[0], read_video(second)[0])
    assert read_provenance(first).number == read_provenance(second).number
    assert read_credentials(second).state == "intact"


def test_what_is_asked_for_is_said(pipeline, portrait, sound, tmp_path):
    output = pipeline.generate_to_file(
        portrait,
        (sound[:2000], SAMPLE_RATE),
        tmp_path / "a.mp4",
        crop=True,
        size=(32, 48),
        num_inference_steps=1,
        disclosure=Disclosure(consent="form 12", watermark=False),
    )
    origin = read_credentials(output).origin
    assert origin.consent == "form 12"
    assert origin.options == {"num_inference_steps": 1, "crop": True, "size": "32x48", "watermark": False}
    assert not origin.watermarked
    assert inspect_file(output, thorough=False).watermark is None


def test_the_size_of_the_file_is_said_not_the_one_asked_for(pipeline, portrait, sound, tmp_path, capsys):
    """Asked for are pixels that it fits into, or, of this model, those of the part that it makes."""
    output = pipeline.generate_to_file(portrait, (sound[:2000], SAMPLE_RATE), tmp_path / "a.mp4", size=(48, 48))
    found = inspect_file(output, thorough=False)
    assert found.size == (300, 400)
    assert (found.credentials.origin.size, found.tags.size) == ("300x400", "300x400")
    main(["inspect", str(output), "--no-thorough"])
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "Picture: 300x400 (height x width)"
    assert [line.split() for line in said if "48x48" in line] == [["asked", "for", "size", "48x48"]]


def test_options_are_what_is_not_as_usual():
    assert FileRequest("a", "b", "c").options() == {}
    control = MotionControl(0.5, "free", False)
    assert FileRequest("a", "b", "c", num_inference_steps=3, seed=4, control=control).options() == {
        "num_inference_steps": 3,
        "motion": 0.5,
        "blinks": False,
    }
    assert FileRequest("a", "b", "c", disclosure=Disclosure(label="AI", consent="x")).options() == {"label": "AI"}


def test_a_label_is_on_every_frame(pipeline, portrait, sound, tmp_path):
    voice = (sound[:6000], SAMPLE_RATE)
    plain, labelled = (
        read_video(pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", disclosure=disclosure))[0]
        for disclosure in (Disclosure(watermark=False), Disclosure(watermark=False, label="AI-generated"))
    )
    change = np.abs(plain.astype(int) - labelled).mean(-1)
    assert len(change) == 10
    assert (change[:, 10:25, 10:60].mean((1, 2)) > 20).all()
    assert change[:, 60:, 150:].mean() < 2


def test_a_certificate_that_is_no_use_is_told_at_once(pipeline, portrait, voice, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_inputs", lambda *_: pytest.fail("it was told too late"))
    own = Disclosure(certificate=tmp_path / "no.pem", key=tmp_path / "no.key")
    with pytest.raises(UserError, match=r"certificate .* does not exist"):
        pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", disclosure=own)
    assert list(tmp_path.glob("*.mp4")) == []


def test_ones_own_certificate_signs(pipeline, portrait, sound, tmp_path):
    chain, key = issue(tmp_path)
    output = pipeline.generate_to_file(
        portrait, (sound[:2000], SAMPLE_RATE), tmp_path / "a.mp4", disclosure=Disclosure(certificate=chain, key=key)
    )
    assert read_credentials(output, tmp_path / "root.pem").trusted


def test_a_cache_that_can_not_be_written_does_not_stop_generation(pipeline, portrait, sound, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "file"))
    said = []
    output = pipeline.generate_to_file(portrait, (sound[:2000], SAMPLE_RATE), tmp_path / "a.mp4", say=said.append)
    assert read_credentials(output).state == "intact"
    assert sum("signed by one of their own" in sentence for sentence in said) == 1


def test_a_video_that_was_stopped_is_signed_as_such(pipeline, portrait, tmp_path):
    voice = (np.zeros(60 * SAMPLE_RATE, np.float32), SAMPLE_RATE)

    def stop(done: int, total: int) -> None:
        if done == 9:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    output = tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate_to_file(portrait, voice, output, progress=stop, say=lambda _: None)
    found = read_credentials(output)
    assert (found.state, found.complete) == ("intact", False)
    assert found.seconds == pytest.approx(probe_video(output).seconds)


def test_small_frames_hold_no_watermark_and_say_so(pipeline, sound, portrait, tmp_path):
    small = np.asarray(Image.open(portrait).convert("RGB"))
    output = pipeline.generate_to_file(
        small, (sound[:2000], SAMPLE_RATE), tmp_path / "a.mp4", crop=True, size=(32, 32)
    )
    assert not read_provenance(output).watermarked
