"""Training of a codec of motion: who counts, what the painter is shown, that it learns, resumes and is loaded."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from asymtalker.config import MotionCodecTrainConfig
from asymtalker.dataset.corpus import ShardWriter, read_clips
from asymtalker.errors import UserError
from asymtalker.models.codecs import load_codec_network
from asymtalker.models.motion.codec import MotionCodecModel
from asymtalker.parts import motion_codec as module
from asymtalker.parts.motion_codec import Critic, SquareBatch, critic_loss, painter_losses, train_motion_codec, weights
from drawn_face import background, drawn_clip
from toy import TOY_OPTIMIZER, assert_same, saved_state, toy_loop

CODEC = MotionCodecTrainConfig(
    components=3,
    channels=8,
    widths=(8, 8, 8),
    pairs=3,
    loop=toy_loop(batch=4),
    optimizer=TOY_OPTIMIZER,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two real training clips of one person, a rendered one, one without a face, and a held-out one."""
    writer = ShardWriter(tmp_path_factory.mktemp("faces"))
    clips = [replace(drawn_clip(seed, 24), split="train", kind="real", identity_id="anna") for seed in range(2)]
    faceless = np.stack([background(160, 160)] * 24)
    clips.append(replace(drawn_clip(2, 24), split="train", kind="rendered"))
    clips.append(replace(drawn_clip(3, 24), split="train", frames=faceless))
    writer.write(0, [*clips, drawn_clip(4, 24)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "codec"
    train_motion_codec(CODEC, run, corpus)
    return run


def test_training_resumes_bit_for_bit(trained, corpus, tmp_path, monkeypatch):
    done = []

    def stopped(*arguments):
        done.append(arguments)
        if len(done) > 3:  # a checkpoint is written after three steps
            raise KeyboardInterrupt
        return painter_losses(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "painter_losses", stopped)
        patch.setattr(module, "held_out", lambda *_: {})
        with pytest.raises(KeyboardInterrupt):
            train_motion_codec(CODEC, tmp_path / "run", corpus)
    shutil.rmtree(tmp_path / "run" / "points")  # read again
    train_motion_codec(CODEC, tmp_path / "run", corpus)
    assert_same(saved_state(trained), saved_state(tmp_path / "run"))


def test_it_writes_a_codec_with_a_basis_and_the_averaged_painter(trained):
    network = load_codec_network(trained / "vae")
    assert isinstance(network, MotionCodecModel)
    assert network.motion.modes.abs().max() > 0
    assert (network.motion.spread > 0).all()
    averaged = saved_state(trained)["ema"]
    assert_same(dict(network.painter.state_dict()), {name: averaged[name] for name in network.painter.state_dict()})


def test_clips_without_a_face_are_left_out_and_held_out_ones_are_measured(trained):
    assert sorted(path.stem for path in (trained / "squares").iterdir()) == ["drawn0", "drawn1", "drawn2", "drawn4"]
    logged = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    assert any("held_out_psnr" in line for line in logged)
    assert any("critic" in line for line in logged if line["step"] > 3), "the critic begins in the second half"
    assert not any("critic" in line for line in logged if line["step"] <= 3)


def test_a_person_counts_as_the_root_of_their_clips_and_real_people_as_all_others(corpus):
    clips = [clip for clip in read_clips(corpus) if clip.row.split == "train"]
    counted = dict(zip([clip.key for clip in clips], weights(clips), strict=True))
    assert counted["drawn0"] + counted["drawn1"] == pytest.approx(1)
    assert counted["drawn2"] + counted["drawn3"] == pytest.approx(1)


def random_batch() -> SquareBatch:
    generator = torch.Generator().manual_seed(0)
    pictures = [2 * torch.rand(4, 3, 96, 96, generator=generator) - 1 for _ in range(3)]
    inside = torch.zeros(4, 1, 96, 96)
    inside[..., 40:56, 30:66] = 1
    return SquareBatch(moved=pictures[0], inside=inside, rest=pictures[1], opened=inside, true=pictures[2])


def test_the_losses_are_zero_for_the_true_picture_and_count_only_what_is_painted():
    batch = random_batch()
    perfect = painter_losses(lambda moved, *_: batch.true - moved, batch, None)
    assert all(perfect[name] < 1e-6 for name in ("l1", "edges", "temporal"))
    far = torch.zeros_like(batch.moved)
    far[..., :8] = 1
    elsewhere = painter_losses(lambda moved, *_: batch.true - moved + far, batch, None)
    assert elsewhere["l1"] < 1e-6, "what lies far from the mouth's inside does not count"
    half = len(batch.moved) // 2
    flicker = torch.cat([torch.zeros(half, 3, 96, 96), torch.full((half, 3, 96, 96), 0.2)])
    losses = painter_losses(lambda moved, *_: batch.true - moved + flicker, batch, None)
    steady = painter_losses(lambda moved, *_: batch.true - moved + 0.1, batch, None)
    assert losses["l1"] == pytest.approx(float(steady["l1"]), rel=1e-3)
    assert losses["temporal"] > 10 * steady["temporal"], "pairs follow each other, half a batch apart"


def test_the_critic_is_taught_to_tell_true_from_painted():
    torch.manual_seed(0)
    critic, batch = Critic(width=8).train(), random_batch()
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    smooth = torch.zeros_like(batch.true)
    for _ in range(30):
        optimizer.zero_grad()
        critic_loss(critic, batch, smooth).backward()
        optimizer.step()
    judged = [critic(batch.moved + batch.inside * (seen - batch.moved), batch.inside) for seen in (batch.true, smooth)]
    middle = ..., slice(10, 14), slice(9, 15)
    assert judged[0][middle].mean() > judged[1][middle].mean() + 0.3


def test_what_sharpens_the_painter_is_what_the_critic_takes_for_true():
    torch.manual_seed(0)
    critic, batch = Critic(width=8).eval(), random_batch()
    added = torch.zeros_like(batch.moved, requires_grad=True)
    sharp = painter_losses(lambda *_: added, batch, critic)["sharp"]
    (gradient,) = torch.autograd.grad(sharp, added)
    assert not gradient[..., :8].any(), "it paints where nothing is to be painted"
    seen = batch.moved, batch.moved - 100 * gradient
    with torch.no_grad():
        scores = [critic(pictures, batch.inside)[..., 10:14, 9:15].mean() for pictures in seen]
    assert scores[1] > scores[0] + 0.01


def test_a_corpus_without_faces_is_refused(corpus, tmp_path):
    writer = ShardWriter(tmp_path / "corpus")
    writer.write(0, [replace(drawn_clip(0, 24), frames=np.stack([background(160, 160)] * 24))])
    writer.write_manifest()
    with pytest.raises(UserError, match="no training clip with a face"):
        train_motion_codec(CODEC, tmp_path / "run", tmp_path / "corpus")
