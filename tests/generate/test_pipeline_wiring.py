"""What the pipeline asks the chunk loop for."""

import json
import shutil

import pytest
import torch

from asymtalker.config import ChunkConfig, SamplerConfig
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.timeline import SAMPLE_RATE, chunk_spans, frames_of_samples


@pytest.fixture
def asked(portrait, sound, monkeypatch):
    """A function of a pipeline and options of a video: what the chunk loop was asked for."""

    def ask(pipeline, **options):
        seen = {}

        def noted(transformer, codec, audio, identity, spans, **settings):
            seen.update(settings, transformer=transformer, audio=audio, identity=identity, spans=list(spans))
            return iter(())

        monkeypatch.setattr("asymtalker.generate.pipeline.rollout", noted)
        list(pipeline.stream(portrait, (sound, SAMPLE_RATE), **options))
        return seen

    return ask


def test_a_video_is_rolled_out_on_its_own_continuity_over_the_whole_sound(pipeline, sound, asked):
    seen = asked(pipeline, seed=11)
    chunk = ChunkConfig(frames=9, continuity_frames=5)
    assert seen["seed"] == 11, "the seed is lost"
    assert seen["chunk"] == chunk
    assert seen["spans"] == list(chunk_spans(frames_of_samples(len(sound)), 9, 5)), "chunks of another length of sound"
    assert seen.get("continuity", "generated") == "generated", "a video is given the real one's continuity"
    assert seen.get("exit_step") is None, "a chunk is not sampled to its end"
    assert seen["transformer"] is pipeline.transformer
    assert seen["audio"].frames(0, 2).shape == (1, 2, 16)


def test_a_video_is_sampled_as_the_checkpoint_says_or_as_is_asked_for(checkpoint, tmp_path, asked):
    folder = tmp_path / "student"
    shutil.copytree(checkpoint, folder)
    settings = {"num_inference_steps": 3, "guidance_scale": 2.5, "renew_noise": True, "identity": "etr"}
    for file, changes in (("model_index.json", settings), ("scheduler/scheduler_config.json", {"shift": 7.0})):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    pipeline = AsymTalkerPipeline.from_pretrained(folder)
    seen = asked(pipeline)
    student = SamplerConfig(num_steps=3, shift=7.0, guidance_scale=2.5, renew_noise=True)
    assert seen["sampler"] == student, "not sampled as the checkpoint says"
    latents = seen["identity"].latents
    assert torch.equal(latents, latents[:, :, :1].expand_as(latents)), "the portrait enters by another strategy"
    seen = asked(pipeline, num_inference_steps=2, guidance_scale=1.5)
    wanted = SamplerConfig(num_steps=2, shift=7.0, guidance_scale=1.5, renew_noise=True)
    assert seen["sampler"] == wanted, "not sampled as was asked for"
