"""Other systems' videos are collected from fakes that take exactly the documented flags and input files."""

import errno
import hashlib
import json
import os
import signal
import sys
import textwrap
import threading
import time
import wave
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from asymtalker.dataset.corpus import ShardWriter, open_clip
from asymtalker.errors import UserError
from asymtalker.evaluate.baselines import run
from asymtalker.evaluate.baselines.run import (
    BASELINES,
    BaselineSettings,
    corpus_pairs,
    inputs_hash,
    run_baseline,
)
from asymtalker.evaluate.pairs import Pair, read_pairs, write_pairs
from asymtalker.media.sound import read_audio
from asymtalker.media.video import probe_video, read_video, write_video
from asymtalker.media.wav import encode_wav
from toy import ToyFace

# What every fake does: check its inputs and write, where the real one writes, a text that tells which they were.
COMMON = """
import argparse, hashlib, json, os, sys
from pathlib import Path

def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

def save(path, image, audio):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(digest(image) + digest(audio))

def parse(*flags, switches=()):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in flags:
        parser.add_argument(flag, required=True, nargs="+" if flag == "--base" else None)
    for switch in switches:
        parser.add_argument(switch, action="store_true", required=True)
    return parser.parse_args()

def lines(path):
    (line,) = Path(path).read_text().splitlines()
    prompt, image, audio = line.split("@@")
    assert prompt
    return image, audio

"""
# In the place of torch.distributed.run, whose import alone takes seconds.
TORCHRUN = """
import runpy
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--standalone", action="store_true", required=True)
parser.add_argument("--nproc_per_node", type=int, required=True)
parser.add_argument("script")
args, rest = parser.parse_known_args()
sys.argv = [args.script, *rest]
sys.path[0] = str(Path(args.script).parent)
runpy.run_path(args.script, run_name="__main__")
"""
FAKES = {
    "sadtalker": {
        "inference.py": """
        a = parse("--driven_audio", "--source_image", "--result_dir", "--enhancer")
        assert a.enhancer == "gfpgan" and Path("src/config").is_dir()
        save(Path(a.result_dir) / "2024_01_01_00.00.00.mp4", a.source_image, a.driven_audio)
        """,
        "src/config/facerender.yaml": "",
    },
    "aniportrait": {
        "scripts/audio2vid.py": """
        import yaml
        a = parse("--config", "-W", "-H", switches=["-acc"])
        config = yaml.safe_load(Path(a.config).read_text())
        assert config["pretrained_vae_path"] == "./somewhere/vae" and config["weight_dtype"] == "fp16"
        ((image, (audio,)),) = config["test_cases"].items()
        save(f"output/20240101/0000--seed_42-{a.W}x{a.H}/{Path(image).stem}_{Path(audio).stem}.mp4", image, audio)
        """,
        "configs/prompts/animation_audio.yaml": """
        pretrained_vae_path: './somewhere/vae'
        test_cases:
          "./configs/inference/ref_images/lyl.png":
            - "./configs/inference/audio/lyl.wav"
        weight_dtype: 'fp16'
        """,
        "output/20231231/1200/old.mp4": "left from an earlier run",
    },
    "omniavatar": {
        "torch/__init__.py": "",
        "torch/distributed/__init__.py": "",
        "torch/distributed/run.py": TORCHRUN,
        "OmniAvatar/__init__.py": "",
        "scripts/inference.py": """
        import OmniAvatar
        a = parse("--config", "--input_file")
        assert Path(a.config).is_file()
        folder = f"demo_out/OmniAvatar-14B/res_{Path(a.input_file).stem}_seed42"
        save(f"{folder}/result_000_000_wav.mp4", *lines(a.input_file))
        Path(folder, "result_000_000.mp4").write_text("without sound")
        """,
        "configs/inference.yaml": "",
    },
    "hallo3": {
        "hallo3/sample_video.py": """
        a = parse("--base", "--seed", "--input-file", "--output-dir")
        assert all(Path(path).is_file() for path in a.base) and os.environ["LOCAL_WORLD_SIZE"] == "1"
        image, audio = lines(a.input_file)
        name = f"{Path(image).stem}-{Path(audio).stem}-seed_{a.seed}"
        save(f"{a.output_dir}/{name}/000000_with_audio.mp4", image, audio)
        """,
        "configs/cogvideox_5b_i2v_s2.yaml": "",
        "configs/inference.yaml": "",
    },
    "stableavatar": {
        "inference.py": """
        import shutil
        a = parse(
            "--config_path", "--pretrained_model_name_or_path", "--transformer_path", "--pretrained_wav2vec_path",
            "--validation_reference_path", "--validation_driven_audio_path", "--output_dir", "--validation_prompts",
            "--seed", "--ulysses_degree", "--ring_degree", "--motion_frame", "--sample_steps", "--width", "--height",
            "--overlap_window_length", "--clip_sample_n_frames", "--GPU_memory_mode", "--sample_text_guide_scale",
            "--sample_audio_guide_scale",
        )
        assert Path(a.transformer_path).exists() and Path(a.validation_reference_path).is_file()
        Path(a.output_dir).mkdir()
        shutil.copy("video.mp4", f"{a.output_dir}/video_without_audio.mp4")
        """,
        "deepspeed_config/wan2.1/wan_civitai.yaml": "",
        "checkpoints/Wan2.1-Fun-V1.1-1.3B-InP/config.json": "",
        "checkpoints/StableAvatar-1.3B/transformer3d-square.pt": "",
        "checkpoints/wav2vec2-base-960h/config.json": "",
    },
    "infinitetalk": {
        "generate_infinitetalk.py": """
        a = parse(
            "--ckpt_dir", "--wav2vec_dir", "--infinitetalk_dir", "--input_json", "--size", "--sample_steps", "--mode",
            "--motion_frame", "--max_frame_num", "--save_file",
        )
        case = json.loads(Path(a.input_json).read_text())
        assert Path(a.infinitetalk_dir).exists() and a.mode == "streaming" and case["prompt"]
        assert int(a.max_frame_num) == 13  # of half a second
        save(f"{a.save_file}.mp4", case["cond_video"], case["cond_audio"]["person1"])
        """,
        "weights/Wan2.1-I2V-14B-480P/config.json": "",
        "weights/chinese-wav2vec2-base/config.json": "",
        "weights/InfiniteTalk/single/infinitetalk.safetensors": "",
    },
}


def make_checkout(folder: Path, method: str, script: str | None = None) -> Path:
    """A fake checkout; ``script`` takes the place of what its entry script does."""
    for name, text in FAKES[method].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == BASELINES[method].script and script is not None:
            text = script
        path.write_text((COMMON if name.endswith(".py") else "") + textwrap.dedent(text))
    if method == "stableavatar":
        write_video(folder / "video.mp4", np.zeros((10, 64, 64, 3), np.uint8))
    return folder


def make_pairs(folder: Path, *names: str, size: tuple[int, int] = (64, 64)) -> list[Pair]:
    """Different pictures and recordings of half a second."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for index, name in enumerate(names):
        pair = Pair(name, folder / f"{name}.png", folder / f"{name} voice.wav")
        Image.new("RGB", size, (index, 0, 0)).save(pair.image)
        with wave.open(str(pair.audio), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.full(8_000, index, np.int16).tobytes())
        pairs.append(pair)
    return pairs


def make_settings(tmp_path: Path, method: str = "sadtalker", script: str | None = None, names=("ann", "bob")):
    write_pairs(tmp_path / "pairs.tsv", make_pairs(tmp_path / "inputs", *names))
    repo = make_checkout(tmp_path / "repo", method, script)
    python, out = Path(sys.executable), tmp_path / "videos"
    return BaselineSettings(method=method, repo=repo, python=python, manifest=tmp_path / "pairs.tsv", out=out)


def made_of(pair: Pair) -> str:
    return "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in (pair.image, pair.audio))


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but byte code."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def record_of(settings: BaselineSettings) -> dict:
    return json.loads((settings.out / "method.json").read_text())


@pytest.mark.parametrize("method", BASELINES)
def test_each_method_is_run_as_documented_and_its_videos_are_collected(tmp_path, method, capsys):
    settings = make_settings(tmp_path, method)
    checkout = files_of(settings.repo)
    run_baseline(settings)
    for pair in read_pairs(settings.manifest):
        video = settings.out / f"{pair.name}.mp4"
        if method == "stableavatar":  # its videos are silent: the pictures stay, the sound is added
            assert probe_video(video).audio_rate == 16_000
            assert np.array_equal(read_video(video)[0], read_video(settings.repo / "video.mp4")[0])
            assert len(read_video(video)[1]) == pytest.approx(0.4 * 16_000, abs=1024)  # as long as the pictures
        else:
            assert video.read_text() == made_of(pair)
    assert files_of(settings.repo) == checkout
    expected = {"ann.log", "ann.mp4", "bob.log", "bob.mp4", "method.json"}
    assert {path.name for path in settings.out.iterdir()} == expected
    record = record_of(settings)
    assert record["method"] == method
    assert record["fps"] in (25, 30)
    assert set(record["loaded_seconds_per_video"]) == {"ann", "bob"}
    assert record["failed"] == {}
    assert capsys.readouterr().out.strip() == str(settings.out / "method.json")


def test_the_same_command_goes_on(tmp_path):
    script = """
    a = parse("--driven_audio", "--source_image", "--result_dir", "--enhancer")
    with (Path(__file__).resolve().parent / "runs").open("a") as file:
        file.write(digest(a.source_image) + "\\n")
    save(f"{a.result_dir}/1.mp4", a.source_image, a.driven_audio)
    """
    settings = make_settings(tmp_path, script=script)
    run_baseline(settings)
    (settings.out / "bob.mp4").unlink()
    first = record_of(settings)["loaded_seconds_per_video"]["ann"]
    run_baseline(settings)
    ann, bob = (hashlib.sha256(pair.image.read_bytes()).hexdigest() for pair in read_pairs(settings.manifest))
    assert (settings.repo / "runs").read_text().split() == [ann, bob, bob]
    assert record_of(settings)["loaded_seconds_per_video"]["ann"] == first
    run_baseline(settings)
    assert set(record_of(settings)["loaded_seconds_per_video"]) == {"ann", "bob"}
    changed = read_pairs(settings.manifest)[0]
    Image.new("RGB", (64, 64), (9, 9, 9)).save(changed.image)
    run_baseline(settings)
    assert (settings.out / "ann.mp4").read_text() == made_of(changed)
    assert len((settings.repo / "runs").read_text().split()) == 4


FAILS_WITHOUT_LUCK = """
a = parse("--driven_audio", "--source_image", "--result_dir", "--enhancer")
lucky = (Path(__file__).resolve().parent / "luck").exists()
print("looking for a face", flush=True)
if digest(a.source_image) == "%s" and not lucky:
    sys.exit("no face was found\\n")
save(f"{a.result_dir}/1.mp4", a.source_image, a.driven_audio)
"""


def test_a_failing_pair_is_noted_and_tried_again(tmp_path, capsys):
    settings = make_settings(tmp_path)
    ann, bob = read_pairs(settings.manifest)
    unlucky = hashlib.sha256(ann.image.read_bytes()).hexdigest()
    make_checkout(settings.repo, "sadtalker", FAILS_WITHOUT_LUCK % unlucky)
    run_baseline(settings)
    assert not (settings.out / "ann.mp4").exists()
    assert (settings.out / "bob.mp4").read_text() == made_of(bob)
    assert record_of(settings)["failed"] == {"ann": "no face was found"}
    assert set(record_of(settings)["loaded_seconds_per_video"]) == {"bob"}
    assert "no face was found" in capsys.readouterr().err
    (settings.repo / "luck").touch()
    run_baseline(settings)
    assert (settings.out / "ann.mp4").read_text() == made_of(ann)
    assert record_of(settings)["failed"] == {}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sys.exit('CUDA out of memory')", "CUDA out of memory"),
        ("print('Can\\'t get the coeffs of the input')", "coeffs"),  # as SadTalker ends, with exit code 0
        ("sys.exit(3)", "exit code 3"),
    ],
)
def test_it_is_an_error_if_all_fail(tmp_path, script, reason):
    settings = make_settings(tmp_path, script=script)
    with pytest.raises(UserError, match=reason):
        run_baseline(settings)
    assert set(record_of(settings)["failed"]) == {"ann", "bob"}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "empty"),
        ("name\timage\n", "no column audio"),
        ("name,image,audio\na,a.png,a.wav\n", "no column name"),
        ("name\timage\taudio\n", "no pair"),
        ("name\timage\taudio\na\ta.png\n", "Line 2"),
        ("name\timage\taudio\na/b\ta.png\ta.wav\n", "file name"),
        ("name\timage\taudio\n..\ta.png\ta.wav\n", "file name"),
        ("name\timage\taudio\na\ta.png\ta.wav\na\ta.png\ta.wav\n", "a occurs twice"),
        ("name\timage\taudio\na\tmissing.png\ta.wav\n", "missing.png does not exist"),
        ("name\timage\taudio\na\ta.png\t.\n", "folder"),
        (b"name\timage\taudio\n\xff\ta.png\ta.wav\n", "not a text file"),
    ],
)
def test_a_bad_manifest_is_one_sentence(tmp_path, table, sentence):
    (tmp_path / "a.png").write_text("picture")
    (tmp_path / "a.wav").write_text("sound")
    manifest = tmp_path / "pairs.tsv"
    manifest.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UserError, match=sentence) as error:
        read_pairs(manifest)
    assert "\n" not in str(error.value)


def test_a_manifest_moves_with_its_folder(tmp_path):
    (tmp_path / "here").mkdir()
    near, (far,) = make_pairs(tmp_path / "here" / "inputs", "near"), make_pairs(tmp_path / "far", "far")
    write_pairs(tmp_path / "here" / "pairs.tsv", [*near, far])
    (tmp_path / "here").rename(tmp_path / "there")
    read = read_pairs(tmp_path / "there" / "pairs.tsv")
    assert [pair.name for pair in read] == ["near", "far"]
    assert read[0].image == tmp_path / "there" / "inputs" / "near.png"
    assert read[1] == far
    with pytest.raises(UserError, match="tab"):
        write_pairs(tmp_path / "pairs.tsv", [Pair("a", tmp_path / "a\tb.png", tmp_path / "a.wav")])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "wav2lip"}, "no method wav2lip"),
        ({"repo": Path("/nowhere")}, "not a folder"),
        ({"method": "infinitetalk"}, "has no generate_infinitetalk.py"),
        ({"python": Path("/nowhere/bin/python")}, "no Python"),
        ({"manifest": Path("/nowhere/pairs.tsv")}, "manifest"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(tmp_path, change, sentence):
    settings = make_settings(tmp_path)
    with pytest.raises(UserError, match=sentence):
        run_baseline(BaselineSettings(**vars(settings) | change))
    assert not settings.out.exists()


def test_missing_weights_and_sound_of_the_wrong_kind_are_named(tmp_path):
    settings = make_settings(tmp_path, "hallo3")
    (settings.repo / "configs" / "inference.yaml").unlink()
    with pytest.raises(UserError, match=r"has no configs/inference\.yaml"):
        run_baseline(settings)
    (pair,) = make_pairs(tmp_path / "inputs", "eve")
    write_pairs(settings.manifest, [Pair("eve", pair.image, pair.audio.rename(tmp_path / "eve.mp3"))])
    with pytest.raises(UserError, match=r"WAV only.*eve\.mp3"):
        run_baseline(settings)


def test_a_folder_keeps_to_one_method(tmp_path):
    settings = make_settings(tmp_path)
    run_baseline(settings)
    other = make_checkout(tmp_path / "other", "hallo3")
    with pytest.raises(UserError, match="holds videos of sadtalker"):
        run_baseline(BaselineSettings(**vars(settings) | {"method": "hallo3", "repo": other}))
    assert record_of(settings)["method"] == "sadtalker"


def test_pieces_that_depend_on_the_picture_are_told_if_all_videos_have_the_same(tmp_path):
    settings = make_settings(tmp_path, "omniavatar", names=("square",))
    run_baseline(settings)
    # 30000 tokens of 16 x 16 pixels and 4 frames hold 57 frames of 720 x 720, of which 13 overlap
    assert record_of(settings)["chunk"] == {"first": 57, "step": 44}
    tall = make_pairs(tmp_path / "inputs", "tall", size=(64, 110))
    write_pairs(settings.manifest, [*read_pairs(settings.manifest), *tall])
    run_baseline(settings)
    assert record_of(settings)["chunk"] is None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_ctrl_c_stops_the_command_and_its_children(tmp_path):
    script = """
    import subprocess, time
    late = Path(__file__).resolve().parent / "late"
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600); open({str(late)!r}, 'w')"])
    target = Path(__file__).resolve().parent / "pids"
    target.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    target.with_suffix(".part").rename(target)
    time.sleep(600)
    """
    settings = make_settings(tmp_path, script=script)
    pids = settings.repo / "pids"

    def press() -> None:
        while not pids.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_baseline(settings)
    while any(is_running(int(pid)) for pid in pids.read_text().split()):
        time.sleep(0.01)
    assert not (settings.repo / "late").exists(), "it ended by itself"
    assert {path.name for path in settings.out.iterdir()} == {"ann.log"}


def test_a_corpus_gives_the_first_frames_and_sounds_of_its_held_out_clips(toy_corpus, tmp_path):
    pairs, unread = corpus_pairs(toy_corpus, tmp_path / "inputs")
    assert unread == {}
    assert [pair.name for pair in pairs] == ["test-toy4", "test-toy5"]
    clip = open_clip(toy_corpus, "test-toy4")
    assert np.array_equal(np.asarray(Image.open(pairs[0].image)), clip.frames(0, 1)[0])
    assert np.abs(read_audio(pairs[0].audio) - clip.audio()).max() < 1e-4
    assert corpus_pairs(toy_corpus, tmp_path / "inputs") == (pairs, {})


def corpus_of(folder: Path, **seeds: int) -> Path:
    """Held-out clips by name, each in a shard of its own."""
    writer = ShardWriter(folder)
    for index, (key, seed) in enumerate(seeds.items()):
        writer.write(index, [replace(ToyFace(seed).clip("test"), key=key)])
    writer.write_manifest()
    return folder


def with_corpus(settings: BaselineSettings, corpus: Path) -> BaselineSettings:
    return replace(settings, manifest=None, corpus=corpus)


def test_another_corpus_with_the_same_names_is_run_on_its_own_pictures(tmp_path):
    settings = make_settings(tmp_path)
    first, other = corpus_of(tmp_path / "first", ann=1, bob=2), corpus_of(tmp_path / "other", ann=1, bob=3)
    run_baseline(with_corpus(settings, first))
    ann, bob = ((settings.out / f"{name}.mp4").read_text() for name in ("ann", "bob"))
    kept = (settings.out / "ann.mp4").stat().st_mtime_ns
    run_baseline(with_corpus(settings, other))
    (_, pair), _ = corpus_pairs(other, settings.out / "inputs")
    assert np.array_equal(np.asarray(Image.open(pair.image)), open_clip(other, "bob").frames(0, 1)[0])
    assert pair.audio.read_bytes() == encode_wav(open_clip(other, "bob").audio())
    assert (settings.out / "bob.mp4").read_text() == made_of(pair) != bob
    assert (settings.out / "ann.mp4").read_text() == ann
    assert (settings.out / "ann.mp4").stat().st_mtime_ns == kept


def test_pictures_of_a_corpus_stay_as_they_were_written(tmp_path):
    """Another version of Pillow would make other bytes of the same picture, and then all videos would be made anew."""
    (pair,), _ = corpus_pairs(corpus_of(tmp_path / "corpus", ann=1), tmp_path / "inputs")
    Image.open(pair.image).save(pair.image, compress_level=0)
    before = inputs_hash(pair)
    corpus_pairs(tmp_path / "corpus", tmp_path / "inputs")
    assert inputs_hash(pair) == before
    pair.image.write_bytes(pair.image.read_bytes()[:300])
    corpus_pairs(tmp_path / "corpus", tmp_path / "inputs")
    assert Image.open(pair.image).convert("RGB").size == (32, 32)


def test_damaged_clips_of_a_corpus_cost_themselves_alone(tmp_path, monkeypatch, capsys):
    settings = make_settings(tmp_path)
    corpus = corpus_of(tmp_path / "corpus", ann=1, bob=2, eve=3, kim=4, joe=5)
    monkeypatch.chdir(tmp_path)
    settings = replace(with_corpus(settings, corpus), out=Path("videos"))  # commands run elsewhere
    run_baseline(settings)
    assert record_of(settings)["failed"] == {}
    shards = {index: corpus / f"shard-{index:06d}.tar" for index in range(5)}
    shards[0].write_bytes(shards[0].read_bytes()[:1500])
    for index, mark, count in ((1, b"RIFF", 2000), (2, b"ftyp", 2000), (3, b"trak", 4)):  # of the last the streams go
        data = shards[index].read_bytes()
        at = data.index(mark)
        shards[index].write_bytes(data[:at] + bytes(count) + data[at + count :])
    run_baseline(settings)
    failed = record_of(settings)["failed"]
    assert set(failed) == {"ann", "bob", "eve", "kim"}
    assert "shard-000000.tar is damaged" in failed["ann"]
    assert f"no video of ann: {failed['ann']}" in capsys.readouterr().err
    assert {path.stem for path in settings.out.glob("*.mp4")} == {"joe"}
    shards[4].unlink()
    with pytest.raises(UserError, match="No held-out clip"):
        run_baseline(settings)


def test_what_could_not_be_made_again_has_no_video(tmp_path):
    settings = make_settings(tmp_path)
    run_baseline(settings)
    ann, _ = read_pairs(settings.manifest)
    Image.new("RGB", (64, 64), (9, 9, 9)).save(ann.image)
    unlucky = hashlib.sha256(ann.image.read_bytes()).hexdigest()
    make_checkout(settings.repo, "sadtalker", FAILS_WITHOUT_LUCK % unlucky)
    run_baseline(settings)
    assert not (settings.out / "ann.mp4").exists()
    record = record_of(settings)
    assert record["failed"] == {"ann": "no face was found"}
    assert set(record["loaded_seconds_per_video"]) == set(record["inputs"]) == {"bob"}


def test_a_stop_does_not_leave_the_video_of_another_picture(tmp_path, monkeypatch):
    settings = make_settings(tmp_path)
    run_baseline(settings)
    Image.new("RGB", (64, 64), (9, 9, 9)).save(read_pairs(settings.manifest)[0].image)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_baseline(settings)
    assert {path.stem for path in settings.out.glob("*.mp4")} == {"bob"}


@pytest.mark.parametrize("method", ["sadtalker", "stableavatar"])
def test_a_full_disk_is_no_fault_of_the_pair(tmp_path, monkeypatch, method):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = make_settings(tmp_path, method)
    with monkeypatch.context() as patch:
        patch.setattr(run.shutil, "move", full)
        patch.setattr(run.AudioFile, "track", lambda self: SimpleNamespace(rate=16_000, channels=1))
        patch.setattr(run, "open_media", full)
        with pytest.raises(UserError, match="disk is full"):
            run_baseline(settings)
    assert not (settings.out / "method.json").exists()
    run_baseline(settings)
    assert record_of(settings)["failed"] == {}


def test_what_a_killed_run_left_is_removed(tmp_path):
    settings = with_corpus(make_settings(tmp_path), corpus_of(tmp_path / "corpus", ann=1))
    run_baseline(settings)
    expected = sorted(settings.out.rglob("*"))
    for name in (".ann.mp4.7.part", ".work-abc/repo/file", "inputs/.ann.png.7.part", ".method.json.7.part"):
        (settings.out / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.out / name).touch()
    (settings.out / ".work-abc" / "link").symlink_to(settings.repo)
    run_baseline(settings)
    assert sorted(settings.out.rglob("*")) == expected
    assert (settings.repo / "inference.py").is_file()


def test_times_are_of_one_machine(tmp_path):
    settings = make_settings(tmp_path)
    run_baseline(settings)
    here = record_of(settings)
    elsewhere = here["machine"] | {"cpu": "abacus"}
    (settings.out / "method.json").write_text(json.dumps(here | {"machine": elsewhere}))
    run_baseline(settings)
    assert record_of(settings) == here | {"machine": elsewhere}  # nothing was made here
    (settings.out / "bob.mp4").unlink()
    run_baseline(settings)
    record = record_of(settings)
    assert record["machine"] == here["machine"]
    assert set(record["loaded_seconds_per_video"]) == {"bob"}
    (settings.out / "method.json").write_text(json.dumps(record | {"machine": here["machine"] | {"torch": "0.1"}}))
    (settings.out / "ann.mp4").unlink()
    run_baseline(settings)
    assert set(record_of(settings)["loaded_seconds_per_video"]) == {"ann", "bob"}  # ours is not what is timed
