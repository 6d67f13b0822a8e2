import errno
import inspect
import io
import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HFValidationError, HTTPError
from PIL import Image
from safetensors.torch import load_file, save_file

from asymtalker.errors import UserError
from asymtalker.generate import folder as folders
from asymtalker.generate.folder import frames_of
from asymtalker.generate.inputs import FileRequest, FramesRequest, Request
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.portrait import find_faces
from asymtalker.media.sound import SoundTrack
from asymtalker.media.video import VideoWriter, probe_video, read_video
from asymtalker.models.motion.control import MotionControl
from asymtalker.provenance.origin import read_provenance
from asymtalker.timeline import SAMPLE_RATE
from drawn_face import background, draw_face


def coarse(frames: np.ndarray) -> np.ndarray:
    """Means of 8 x 8 blocks: what is left of pixel noise after video compression."""
    return frames.reshape(len(frames), 4, 8, 4, 8, 3).mean(axis=(2, 4, 5))


def test_frames_cover_the_sound_and_depend_on_the_seed(pipeline, portrait, sound):
    frames = pipeline(portrait, (sound, SAMPLE_RATE), seed=3, crop=True).frames
    assert frames.shape == (-(-len(sound) // 640), 32, 32, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, pipeline(portrait, (sound, SAMPLE_RATE), seed=3, crop=True).frames)
    assert not np.array_equal(frames, pipeline(portrait, (sound, SAMPLE_RATE), seed=4, crop=True).frames)


def test_every_form_of_input_gives_the_same(pipeline, portrait, voice, tmp_path):
    expected = pipeline(portrait, voice).frames
    picture = Image.open(portrait)
    assert np.array_equal(pipeline(picture, str(voice)).frames, expected)
    assert np.array_equal(pipeline(np.asarray(picture), voice).frames, expected)
    pictures = pipeline(portrait, voice, output_type="pil").frames
    assert np.array_equal(np.stack([np.asarray(frame) for frame in pictures]), expected)
    streamed = list(pipeline.stream(portrait, voice))
    assert [len(part) for part in streamed[:2]] == [9, 4]
    assert np.array_equal(np.concatenate(streamed), expected)


def test_threads_share_a_pipeline(pipeline, portrait, sound):
    alone = [pipeline(portrait, (sound, SAMPLE_RATE), seed=seed).frames for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda seed: pipeline(portrait, (sound, SAMPLE_RATE), seed=seed).frames, range(3)))
    streams = [pipeline.stream(portrait, (sound, SAMPLE_RATE), seed=seed) for seed in range(3)]
    taken = [
        np.concatenate(parts) for parts in zip(*zip(*streams, strict=True), strict=True)
    ]  # a chunk of each in turn
    for seed in range(3):
        assert np.array_equal(made[seed], alone[seed])
        assert np.array_equal(taken[seed], alone[seed])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 1e6])
def test_guidance_without_sense_is_refused(pipeline, portrait, sound, scale):
    with pytest.raises(UserError, match="from 0 to 20"):
        pipeline(portrait, (sound, SAMPLE_RATE), guidance_scale=scale)


def test_files_in_memory_and_open_ones_are_the_files(pipeline, portrait, voice, tmp_path):
    expected = pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4")
    at_its_end = io.BytesIO()
    at_its_end.write(voice.read_bytes())
    picture, sound = portrait.read_bytes(), voice.read_bytes()
    with portrait.open("rb") as open_picture, voice.open("rb") as open_sound:
        for image, audio in [
            (picture, sound),
            (bytearray(picture), memoryview(sound)),
            (io.BytesIO(picture), at_its_end),
            (open_picture, open_sound),
        ]:
            made = pipeline.generate_to_file(image, audio, tmp_path / "b.mp4")
            assert read_provenance(made) == read_provenance(expected)
            assert np.array_equal(read_video(made)[0], read_video(expected)[0])


def test_the_order_of_axes_and_of_samples_and_rate_is_understood(pipeline, portrait, sound):
    picture, rate = torch.from_numpy(np.array(Image.open(portrait).convert("RGB"))), np.int64(SAMPLE_RATE)
    expected = pipeline(picture, (sound, SAMPLE_RATE)).frames
    assert np.array_equal(pipeline(picture.permute(2, 0, 1), (torch.from_numpy(sound), rate)).frames, expected)
    assert np.array_equal(pipeline(picture.numpy(), (rate, sound)).frames, expected), "as SciPy reads it"


@pytest.mark.parametrize(
    "image",
    [
        *(None, 3, object(), b"no picture", b"", io.StringIO("text"), io.BytesIO(b"no picture")),
        *(np.zeros((80, 80, 3)), np.zeros((2, 80, 80, 3), "u1"), np.zeros((1, 80, 80), "u1"), [[1, 2], [3]]),
        *(Image.new("RGB", (9, 9)), torch.zeros(80, 80, 3), torch.zeros(80, 80, 3, device="meta")),
    ],
)
def test_what_is_no_picture_is_one_sentence(pipeline, sound, image):
    with pytest.raises(UserError) as error:
        pipeline(image, (sound, SAMPLE_RATE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "audio",
    [
        *(None, 3, object(), b"no sound", b"", bytearray(b"no sound"), io.BytesIO(), io.StringIO("text")),
        *(np.zeros(100), torch.zeros(100), [0.1] * 9, {"array": np.zeros(9)}, ("voice", "rate")),
        *(
            (np.zeros(9), None),
            (np.zeros(9), np.zeros(9)),
            (1, 2),
            (b"no sound", 16000),
            (torch.zeros(1, 1, 9), 16000),
        ),
    ],
)
def test_what_is_no_sound_is_one_sentence(pipeline, portrait, audio):
    with pytest.raises(UserError) as error:
        pipeline(portrait, audio)
    assert "\n" not in str(error.value)
    assert "/tmp" not in str(error.value), "what was given is called by the name of its copy"


def test_pipes_are_read_and_hashed(pipeline, portrait, voice, tmp_path):
    """As a shell's ``<(...)`` and ``/dev/stdin``."""
    pipes = [tmp_path / "a.png", tmp_path / "a.wav"]
    for pipe in pipes:
        os.mkfifo(pipe)
    with ThreadPoolExecutor(2) as pool:
        for pipe, source in zip(pipes, (portrait, voice), strict=True):
            pool.submit(pipe.write_bytes, source.read_bytes())
        made = pipeline.generate_to_file(*pipes, tmp_path / "a.mp4")
    expected = pipeline.generate_to_file(portrait, voice, tmp_path / "b.mp4")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipes[0].write_bytes, b"no picture")
        with pytest.raises(UserError, match=re.escape(str(pipes[0]))):
            pipeline(pipes[0], voice)
    assert read_provenance(made) == read_provenance(expected)
    assert np.array_equal(read_video(made)[0], read_video(expected)[0])


def test_streaming_leaves_torch_as_it_was(pipeline, portrait, sound):
    for _ in pipeline.stream(portrait, (sound, SAMPLE_RATE)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_saved_and_loaded_pipeline_gives_the_same(pipeline, portrait, sound, tmp_path):
    pipeline.save_pretrained(tmp_path / "again")
    again = AsymTalkerPipeline.from_pretrained(tmp_path / "again")
    assert again.settings == pipeline.settings
    expected = pipeline(portrait, (sound, SAMPLE_RATE)).frames
    assert np.array_equal(again(portrait, (sound, SAMPLE_RATE)).frames, expected)


def test_file_is_the_frames_with_the_sound(pipeline, portrait, voice, sound, tmp_path):
    seen: list[tuple[int, int]] = []
    output = pipeline.generate_to_file(
        portrait, voice, tmp_path / "out" / "a.mp4", seed=5, crop=True, progress=lambda *step: seen.append(step)
    )
    frames, heard = read_video(output)
    made = pipeline(portrait, voice, seed=5, crop=True).frames
    assert frames.shape == made.shape
    assert np.abs(coarse(frames) - coarse(made)).mean() < 4
    assert len(heard) == len(sound)
    assert np.corrcoef(heard, sound)[0, 1] > 0.95
    assert seen[0] == (0, len(made))
    assert seen[-1] == (len(made), len(made))
    assert sorted(path.name for path in output.parent.iterdir()) == ["a.mp4"]


def test_file_says_where_it_comes_from(pipeline, portrait, voice, tmp_path):
    output = pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", seed=5)
    origin = read_provenance(output)
    assert (origin.model, origin.seed) == ("toy", 5)
    assert origin.generator.startswith("AsymTalker ")
    assert "AI-generated" in probe_video(output).metadata["comment"]
    other = pipeline.generate_to_file(portrait, (np.zeros(700, np.float32), SAMPLE_RATE), tmp_path / "b.mp4", seed=5)
    assert read_provenance(other).portrait_sha256 == origin.portrait_sha256
    assert read_provenance(other).audio_sha256 != origin.audio_sha256


def test_stereo_at_its_own_rate_goes_into_the_file(pipeline, portrait, tmp_path):
    stereo = np.zeros((44100, 2), np.float32)
    output = pipeline.generate_to_file(portrait, (stereo, 44100), tmp_path / "a.mp4")
    info = probe_video(output)
    assert (info.audio_rate, info.audio_channels) == (44100, 2)
    assert info.seconds == pytest.approx(1)


def test_a_video_shows_the_whole_picture(pipeline, portrait, voice, tmp_path):
    frames, _ = read_video(pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4"))
    assert np.abs(frames.astype(int) - pipeline(portrait, voice).frames).mean() < 4
    picture = np.asarray(Image.open(portrait).convert("RGB")).astype(int)
    assert frames.shape[1:] == (300, 400, 3)
    assert np.abs(frames[:, :20].astype(int) - picture[:20, :400]).mean() < 4
    assert np.abs(frames[:, 120:180, 190:250].astype(int) - picture[120:180, 190:250]).mean() > 10


@pytest.mark.parametrize("size", [(32, 48), (48, 32)], ids=["landscape", "portrait"])
def test_video_has_the_size_that_is_asked_for(pipeline, portrait, sound, tmp_path, size):
    voice = sound, SAMPLE_RATE
    made = pipeline(portrait, voice, crop=True, size=size).frames
    assert made.shape[1:3] == size
    frames, _ = read_video(pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", crop=True, size=size))
    assert frames.shape == made.shape
    whole = pipeline.generate_to_file(portrait, voice, tmp_path / "b.mp4", size=size)
    assert read_video(whole)[0].shape[1:3] == (300, 400)


def test_a_large_picture_gives_a_video_of_1280_pixels(pipeline, portrait, sound):
    large = np.asarray(Image.open(portrait).convert("RGB").resize((1800, 1350)))
    frames = next(pipeline.stream(large, (sound, SAMPLE_RATE)))
    assert frames.shape[1:3] == (960, 1280)


def test_a_face_made_small_is_said_to_be_so_in_the_video(pipeline, portrait, sound):
    small = np.asarray(Image.open(portrait).convert("RGB"))
    room = np.full((3000, 4000, 3), small[0, 0])
    room[600 : 600 + len(small), 800 : 800 + small.shape[1]] = small
    said = []
    next(pipeline.stream(room, (sound, SAMPLE_RATE), say=said.append))
    assert any(", scaled to 960x1280, is only" in sentence for sentence in said)


def test_a_model_that_makes_pixels_cannot_control_motion(pipeline, portrait, sound):
    with pytest.raises(UserError, match="need a model with a codec of motion"):
        pipeline(portrait, (sound, SAMPLE_RATE), control=MotionControl(motion=0.5))


def test_a_checkpoint_can_be_of_any_shape(pipeline, checkpoint, portrait, sound, tmp_path):
    folder = tmp_path / "landscape"
    shutil.copytree(checkpoint, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"sample_size": [32, 48]}))
    landscape = AsymTalkerPipeline.from_pretrained(folder)
    frames = landscape(portrait, (sound, SAMPLE_RATE), seed=2, crop=True).frames
    assert np.array_equal(frames, pipeline(portrait, (sound, SAMPLE_RATE), seed=2, crop=True, size=(32, 48)).frames)
    landscape.save_pretrained(tmp_path / "again")
    assert AsymTalkerPipeline.from_pretrained(tmp_path / "again").settings == landscape.settings


@pytest.mark.parametrize("size", [(0, 32), (32, 5000), (2, 2), (-64, 64)])
@pytest.mark.parametrize("crop", [False, True])
def test_a_size_that_is_none_is_refused(pipeline, portrait, sound, size, crop):
    with pytest.raises(UserError, match="sides are from 16 to 4096 pixels"):
        pipeline(portrait, (sound, SAMPLE_RATE), size=size, crop=crop)


@pytest.mark.parametrize("size", [(40, 32), (32, 40)])
def test_a_size_that_tokens_do_not_divide_is_refused(pipeline, portrait, sound, size):
    with pytest.raises(UserError, match=r"must be a multiple of 16 pixels, its width of 16"):
        pipeline(portrait, (sound, SAMPLE_RATE), size=size)


def test_a_framed_picture_must_have_the_size(pipeline, sound, tmp_path):
    picture = np.zeros((64, 80, 3), np.uint8)
    with pytest.raises(UserError, match=r"64x80 .* makes 32x32"):
        pipeline.generate_to_file(picture, (sound, SAMPLE_RATE), tmp_path / "a.mp4", framed=True)
    made = pipeline.generate_to_file(picture, (sound, SAMPLE_RATE), tmp_path / "a.mp4", framed=True, size=(64, 80))
    assert read_video(made)[0].shape[1:3] == (64, 80)


@pytest.mark.parametrize("length", [1, 639, 641, 3200])
def test_short_and_silent_sound_works(pipeline, portrait, length):
    frames = pipeline(portrait, (np.zeros(length, np.float32), SAMPLE_RATE)).frames
    assert len(frames) == -(-length // 640)


def test_a_crop_that_reaches_beyond_the_picture_is_said(pipeline, portrait, sound):
    picture = np.asarray(Image.open(portrait).convert("RGB"))
    box = find_faces(picture)[0]
    left, top, wide = int(box.left - 0.15 * box.width), int(box.top - 0.15 * box.width), int(1.3 * box.width)
    close = picture[max(top, 0) : top + wide, max(left, 0) : left + wide]
    around = np.pad(close, ((400, 400), (400, 400), (0, 0)), "edge")
    said: list[str] = []
    for given, crop in ((close, False), (around, True)):
        next(pipeline.stream(given, (sound, SAMPLE_RATE), crop=crop, say=said.append))
    assert not any("blurred" in sentence for sentence in said)
    next(pipeline.stream(close, (sound, SAMPLE_RATE), crop=True, say=said.append))
    (share,) = (int(re.search(r"(\d+)% of it", sentence)[1]) for sentence in said if "blurred" in sentence)
    assert 40 < share < 65  # a face is half as wide as its crop


def test_a_turned_picture_is_turned_back_and_said(pipeline, sound):
    picture = draw_face(background(300, 400), (200, 150), 120)
    said: list[str] = []
    upright = pipeline(picture, (sound, SAMPLE_RATE), say=said.append).frames
    assert said == []
    turned = pipeline(np.ascontiguousarray(np.rot90(picture)), (sound, SAMPLE_RATE), say=said.append).frames
    assert ["by 90 degrees clockwise" in sentence for sentence in said] == [True]
    assert np.array_equal(upright, turned)


def test_several_faces_are_said_and_chosen_from(pipeline, sound, tmp_path):
    picture = draw_face(draw_face(background(400, 700), (150, 200), 90), (480, 200), 160)
    said: list[str] = []
    largest = pipeline(picture, (sound, SAMPLE_RATE), say=said.append).frames
    assert len(said) == 1
    assert np.array_equal(pipeline(picture, (sound, SAMPLE_RATE), face=1, say=said.append).frames, largest)
    assert not np.array_equal(pipeline(picture, (sound, SAMPLE_RATE), face=2, say=said.append).frames, largest)
    assert len(said) == 1


def test_ctrl_c_keeps_a_playable_file(pipeline, portrait, voice, tmp_path):
    said: list[str] = []

    def interrupt(done: int, total: int) -> None:
        if done >= 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", progress=interrupt, say=said.append)
    frames, heard = read_video(tmp_path / "a.mp4")
    assert len(frames) == 13
    assert len(heard) == 13 * 640
    assert "0.5 s are kept" in said[0]


def test_ctrl_c_in_a_chunk_keeps_sound_and_picture_equally_long(pipeline, portrait, voice, tmp_path, monkeypatch):
    take = SoundTrack.take_until

    def interrupt(self, seconds):
        if seconds == 7 / 25:  # in the middle of the first chunk, the frame written, its sound not yet
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, seconds)

    monkeypatch.setattr(SoundTrack, "take_until", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4")
    frames, heard = read_video(tmp_path / "a.mp4")
    assert len(frames) >= 9  # the chunk that was being written is there whole
    assert len(heard) == len(frames) * 640


def test_an_error_in_the_sound_keeps_what_was_made_and_says_so(pipeline, portrait, voice, tmp_path, monkeypatch):
    take = SoundTrack.take_until

    def broken(self, seconds):
        if seconds == 12 / 25:
            raise UserError("The sound is damaged.")
        return take(self, seconds)

    monkeypatch.setattr(SoundTrack, "take_until", broken)
    said: list[str] = []
    with pytest.raises(UserError, match="damaged"):
        pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4", say=said.append)
    assert len(read_video(tmp_path / "a.mp4")[0]) == 12
    assert said == [f"Stopped early: the first 0.5 s are kept in {tmp_path / 'a.mp4'}."]


def test_full_disk_is_said(pipeline, portrait, voice, tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("asymtalker.media.output.OutputFile.__init__", full)
    with pytest.raises(UserError, match="disk is full"):
        pipeline.generate_to_file(portrait, voice, tmp_path / "a.mp4")


def test_inputs_that_cannot_be_used_leave_nothing_behind(pipeline, portrait, voice, tmp_path):
    empty = tmp_path / "empty.png"
    Image.fromarray(background(300, 300)).save(empty)
    output = tmp_path / "out" / "a.mp4"
    for image, audio, face, says in [
        (empty, voice, None, "No human face was found in"),
        (portrait, voice, 2, "Face 2 does not exist"),
        (portrait, empty, None, "empty.png"),
        (tmp_path / "none.png", voice, None, "does not exist"),
        (np.zeros((20, 20, 3), np.uint8), voice, None, "20x20"),
        (np.zeros((100, 100, 3)), voice, None, "uint8"),
        (portrait, (np.zeros(0), 16000), None, "samples"),
        (portrait, (np.full(900, np.nan), 16000), None, "not numbers"),
    ]:
        with pytest.raises(UserError, match=says):
            pipeline.generate_to_file(image, audio, output, face=face)
    assert list(output.parent.iterdir()) == []
    with pytest.raises(UserError, match="at least 1"):
        pipeline.generate_to_file(portrait, voice, output, num_inference_steps=0)
    with pytest.raises(UserError, match=r"end in \.mp4"):
        pipeline.generate_to_file(portrait, voice, voice)


def test_inputs_are_not_overwritten(pipeline, portrait, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", (32, 32), audio_rate=16000) as writer:
        writer.write(np.zeros((5, 32, 32, 3), np.uint8))
        writer.write_audio(np.zeros(3200, np.float32))
    with pytest.raises(UserError, match="overwrite an input"):
        pipeline.generate_to_file(portrait, tmp_path / "a.mp4", tmp_path / "a.mp4")
    output = pipeline.generate_to_file(portrait, tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert len(read_video(output)[0]) == 5


def broken(checkpoint: Path, folder: Path, how: str) -> Path:
    """A copy of the checkpoint with something wrong."""
    copy = folder / "broken"
    shutil.copytree(checkpoint, copy)
    index = copy / "model_index.json"
    content = json.loads(index.read_text())
    match how:
        case "no index":
            index.unlink()
        case "damaged index":
            index.write_text("{")
        case "another class":
            index.write_text(json.dumps(content | {"_class_name": "WanPipeline"}))
        case "missing part":
            shutil.rmtree(copy / "vae")
        case "missing weights":
            (copy / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        case "damaged vae" | "damaged transformer" | "damaged audio_encoder":
            (path,) = (copy / how.removeprefix("damaged ")).glob("*.safetensors")
            path.write_bytes(path.read_bytes()[:-100])
        case "missing audio weight":
            path = copy / "audio_encoder" / "model.safetensors"
            weights = load_file(path)
            del weights["feature_projection.projection.weight"]
            save_file(weights, path, {"format": "pt"})
        case "unknown setting":
            index.write_text(json.dumps(content | {"colour": "blue"}))
    return copy


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no index", r"no model_index\.json"),
        ("damaged index", "damaged"),
        ("another class", "tells of a WanPipeline"),
        ("missing part", "lacks vae"),
        ("missing weights", "transformer cannot be loaded"),
        ("damaged vae", "vae cannot be loaded"),
        ("damaged transformer", "transformer cannot be loaded"),
        ("damaged audio_encoder", "audio_encoder cannot be loaded"),
        ("missing audio weight", r"1 of its weights .* feature_projection\.projection\.weight"),
        ("unknown setting", "colour"),
    ],
)
def test_wrong_checkpoint_is_one_sentence(checkpoint, tmp_path, how, says):
    with pytest.raises(UserError, match=says) as error:
        AsymTalkerPipeline.from_pretrained(broken(checkpoint, tmp_path, how))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sample_size", size) for size in ("abc", None, [512], [512, -512], [512.5, 512], 0)),
        ("chunk_frames", 0),
        ("num_inference_steps", 1.5),
        ("num_inference_steps", True),
        ("guidance_scale", -1.0),
        ("guidance_scale", "1"),
        ("renew_noise", 1),
        ("identity", "none"),
        ("name", 5),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path, name, value):
    index = {"_class_name": "AsymTalkerPipeline", name: value}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for read in (AsymTalkerPipeline.from_pretrained, frames_of):  # the latter before the model is loaded
        with pytest.raises(UserError, match=rf"model_index\.json has a {name} that can't be"):
            read(tmp_path)


@pytest.mark.parametrize(("frames", "continuity"), [(6, 5), (73, 4), (73, 73)])
def test_chunks_that_cannot_be_are_one_sentence(tmp_path, frames, continuity):
    index = {"_class_name": "AsymTalkerPipeline", "chunk_frames": frames, "continuity_frames": continuity}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model_index\.json has chunks that can't be: "):
        frames_of(tmp_path)


def test_guidance_of_none_is_a_setting(tmp_path):
    """As ``assemble --guidance 0`` writes it and a request may ask for."""
    index = {"_class_name": "AsymTalkerPipeline", "guidance_scale": 0, "sample_size": [480, 640]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert frames_of(tmp_path)[0] == (480, 640)


@pytest.mark.parametrize(
    "error", [HTTPError("no tunnel"), HFValidationError("no such name"), ConnectionError("offline")]
)
def test_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(
        UserError, match=r"owner/name is no folder here, and could not be fetched .* check the name and the connection"
    ):
        AsymTalkerPipeline.from_pretrained("owner/name")


def test_checkpoint_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name, says in [(tmp_path / "none", "does not exist"), (tmp_path / "file", "is a file")]:
        with pytest.raises(UserError, match=says):
            AsymTalkerPipeline.from_pretrained(name)
    monkeypatch.setattr(folders.resources, "files", lambda _: tmp_path)
    with pytest.raises(UserError, match="no bundled checkpoint"):
        AsymTalkerPipeline.from_pretrained()


@pytest.mark.parametrize(
    ("way", "request_class"),
    [("__call__", FramesRequest), ("stream", Request), ("generate_to_file", FileRequest)],
)
def test_a_way_to_generate_takes_what_its_request_is_made_of(pipeline, way, request_class):
    own, *taken = inspect.signature(getattr(AsymTalkerPipeline, way)).parameters.values()
    assert own.name == "self"
    assert taken == list(inspect.signature(request_class).parameters.values())
    with pytest.raises(TypeError, match="sed"):
        getattr(pipeline, way)("me.jpg", "speech.wav", sed=1)
