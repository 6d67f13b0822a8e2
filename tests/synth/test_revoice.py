"""Photo heads that say other things: whose lips, whose head, whose sound."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asymtalker.dataset.corpus import ShardWriter, open_clip, read_clips, read_manifest
from asymtalker.errors import UserError
from asymtalker.models.motion.control import lips_parting
from asymtalker.synth import revoice as module
from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.recordings import Recording, Recordings, write_index
from asymtalker.synth.revoice import JAW, Lips, Revoice, revoice
from drawn_face import drawn_clip
from moving_face import mesh_points, motion_network, textured_face


@pytest.fixture(scope="module")
def network():
    return motion_network(mesh_points(textured_face()))


@pytest.fixture(scope="module")
def given(tmp_path_factory, network):
    """A codec, a corpus of photo heads, and recordings of two speakers."""
    folder = tmp_path_factory.mktemp("revoice")
    network.save_pretrained(folder / "model" / "vae")
    writer = ShardWriter(folder / "corpus")
    splits = ("train", "train", "test")
    writer.write(0, [replace(drawn_clip(n, 50), split=split, kind="photo") for n, split in enumerate(splits)])
    writer.write_manifest()
    (folder / "speech").mkdir()
    for seed, speaker in enumerate(("grid-s1", "grid-s31")):  # trained on, and held out
        loud = np.random.default_rng(seed).integers(0, 2, 12)
        sound = 0.5 * np.repeat(loud, 1600) * np.sin(np.arange(12 * 1600) / 7)
        phonemes = [("ɑ" if on else "sil", k / 10, (k + 1) / 10) for k, on in enumerate(loud)]
        recording = Recording(samples=sound.astype(np.float32), phonemes=phonemes, targets=np.zeros((60, 1)))
        recording.save(folder / "speech" / f"{speaker}-0.npz", speaker)
    write_index(folder / "speech")
    return folder


def settings(given, output, **changes) -> Revoice:
    return Revoice(corpus=given / "corpus", model=given / "model", output=output, **({"clips": 2} | changes))


CLOSE = BLENDSHAPES.index("mouthClose")


def mouth(jaw: torch.Tensor, close: torch.Tensor) -> torch.Tensor:
    """Weights of a jaw that opens and lips that it does not part."""
    weights = torch.zeros(len(jaw), len(BLENDSHAPES))
    weights[:, JAW], weights[:, CLOSE] = jaw, close
    return weights


def parted(weights: torch.Tensor) -> torch.Tensor:
    """How far ``(F, 1)``: lips that are kept together matter more the further the jaw is."""
    jaw, close = weights[:, [JAW]], weights[:, [CLOSE]]
    return 2 + 10 * jaw * (1 - 0.6 * close)


def test_lips_become_the_new_voice_s_and_all_else_stays(network):
    basis = network.motion
    steps = torch.arange(50)
    before, after = (mouth(*(0.3 + 0.3 * torch.sin(steps / slow) for slow in pair)) for pair in ((2, 3), (5, 4)))
    parting, _ = lips_parting(basis, basis.face)
    lips = parting @ basis.speech().T
    motion = torch.randn(50, basis.components + 6, generator=torch.Generator().manual_seed(0))
    motion[:, : basis.components] -= motion[:, : basis.components] @ basis.speech().T  # no speech in it
    motion[:, : basis.components] += parted(before) * lips
    said = Lips.fit(basis, [(before, motion)]).say(motion, before, after)
    assert torch.equal(said[:, basis.components :], motion[:, basis.components :])
    silent = torch.eye(basis.components) - basis.speech().T
    torch.testing.assert_close(said[:, : basis.components] @ silent, motion[:, : basis.components] @ silent)
    wanted = parted(after) * lips
    torch.testing.assert_close(said[:, : basis.components] @ basis.speech().T, wanted, rtol=0.01, atol=0.01)


def test_what_is_heard_is_what_the_lips_say(given, network, tmp_path, monkeypatch):
    """Of synthetic voices and of recordings, in turn."""
    said, moved = [], []
    animate, film = module.animate, module._Film

    def animated(speech, rng, count):
        said.append((speech, animate(speech, rng, count).blendshapes))
        return SimpleNamespace(blendshapes=said[-1][1])

    def move(self, portrait, motion):
        moved.append(motion)
        return film._moved(self, portrait, motion)

    monkeypatch.setattr(module, "animate", animated)
    monkeypatch.setattr(module, "recorded", lambda voice, rng, split, fraction: voice)
    monkeypatch.setattr(module, "_Film", type("_Film", (film,), {"_moved": move}))
    revoice(settings(given, tmp_path / "out", speech=given / "speech"))
    rows = read_manifest(tmp_path / "out")
    assert [(row.key, row.kind, row.split) for row in rows] == [
        (f"revoiced-{number:06d}", "revoiced", "train") for number in range(2)
    ]
    assert rows[0].voice_id.startswith("espeak-")
    assert rows[1].voice_id == "grid-s1"
    parting, _ = lips_parting(network.motion, network.motion.face)
    for row, (speech, weights), motion in zip(rows, said, moved, strict=True):
        clip = open_clip(tmp_path / "out", row.key)
        assert clip.num_frames == len(weights) == 50
        np.testing.assert_allclose(clip.audio(), speech.samples, atol=1e-4)
        lips = (motion[:, : network.motion.components] @ parting).numpy()
        follow = [np.corrcoef(lips[3 + lag : 47 + lag], weights[3:47, JAW])[0, 1] for lag in range(-3, 4)]
        assert np.argmax(follow) == 3, f"{row.key}: {follow}"
        assert follow[3] > 0.9


def without_pictures(self, portrait, motion):
    return iter(np.zeros((len(motion), 64, 64, 3), np.uint8))


def test_held_out_heads_say_what_held_out_voices_do(given, tmp_path, monkeypatch):
    fit, fitted = Lips.fit, []
    monkeypatch.setattr(Lips, "fit", lambda basis, known: (fitted.append(len(known)), fit(basis, known))[1])
    monkeypatch.setattr(module._Film, "_moved", without_pictures)
    revoice(settings(given, tmp_path / "out", speech=given / "speech", clips=20, heads=1))
    assert fitted == [2], "lips are fitted to all heads for training, and to no other"
    rows = read_manifest(tmp_path / "out")
    assert [row.split for row in rows] == 2 * (["train"] * 9 + ["test"])
    assert {row.identity_id for row in rows if row.split == "train"} == {"drawn0"}, "one head was asked for"
    assert {row.voice_id for row in rows[1:9:2]} == {row.voice_id for row in rows[10:19:2]} == {"grid-s1"}
    assert [row.identity_id for row in rows[9::10]] == ["drawn2"] * 2
    assert rows[9].voice_id == "grid-s31"
    assert rows[19].voice_id.startswith("espeak-"), "tests hear recordings alone"


def test_no_voice_is_heard_in_training_and_tests(given, tmp_path, monkeypatch):
    """Also where no recordings are held out."""
    (tmp_path / "speech").mkdir()
    shutil.copy(given / "speech" / "grid-s1-0.npz", tmp_path / "speech")
    write_index(tmp_path / "speech")
    monkeypatch.setattr(module._Film, "_moved", without_pictures)
    revoice(settings(given, tmp_path / "out", speech=tmp_path / "speech", clips=10))
    rows = read_manifest(tmp_path / "out")
    assert rows[7].voice_id == "grid-s1"
    assert rows[9].split == "test"
    assert rows[9].voice_id.startswith("espeak-")


def test_a_stopped_run_goes_on(given, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_CLIPS", 1)
    config = settings(given, tmp_path / "out")
    revoice(config)
    first, second = (tmp_path / "out" / f"shard-30000{index}.tar" for index in range(2))
    made, kept = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    revoice(config)
    assert second.read_bytes() == made
    assert first.stat().st_mtime_ns == kept


@pytest.mark.parametrize("seconds", [0.5, 2.5], ids=["a part of one", "several"])
def test_recordings_speak_for_as_long_as_is_wanted_with_their_own_phonemes(given, seconds):
    recordings, said = Recordings(given / "speech"), set()
    for seed in range(6):
        speech = recordings.speak(np.random.default_rng(seed), seconds, "train")
        assert (len(speech.samples), speech.voice_id) == (round(seconds * 16_000), "grid-s1")
        ends = [end for _, _, end in speech.phonemes]
        assert [start for _, start, _ in speech.phonemes] == pytest.approx([0, *ends[:-1]])
        assert ends[-1] == pytest.approx(seconds)
        for symbol, start, end in speech.phonemes:
            part = np.abs(speech.samples[int(start * 16_000) + 100 : int(end * 16_000) - 100])
            assert len(part) < 400 or (part.mean() > 0.1) == (symbol == "ɑ")
        said.add(speech.samples.tobytes())
    assert len(said) == 6, "all begin at the same place"


def test_what_cannot_be_used_is_refused(given, tmp_path, monkeypatch):
    for changes, message in (
        ({"clips": 0}, "--clips is 0"),
        ({"heads": -1}, "--heads is -1"),
        ({"pico_share": 2.0}, "share"),
        ({"speech": given / "model"}, r"has no index\.tsv"),
        ({"corpus": given / "model"}, "model"),
    ):
        with pytest.raises(UserError, match=message):
            revoice(replace(settings(given, tmp_path / "out"), **changes))
    monkeypatch.setattr(module, "read_clips", lambda _: iter([]))
    with pytest.raises(UserError, match="no photo heads"):
        revoice(settings(given, tmp_path / "out"))
    monkeypatch.setattr(module, "load_codec_network", lambda _: SimpleNamespace())
    with pytest.raises(UserError, match="its codec makes pixels"):
        revoice(settings(given, tmp_path / "out"))


def test_a_head_whose_face_is_not_seen_is_left_out_and_said(given, network, capsys, monkeypatch):
    clips = read_clips(given / "corpus")
    read, asked = module.read_points, []

    def seen(frames):
        asked.append(frames)
        if len(asked) == 1:
            raise UserError("No face was found in the first frame.")
        return read(frames)

    monkeypatch.setattr(module, "read_points", seen)
    film = module._Film(settings(given, given), network, clips, None)
    assert sum(map(len, film.heads.values())) == len(clips) - 1
    assert f"{clips[0].row.key} is left out: No face" in capsys.readouterr().err
