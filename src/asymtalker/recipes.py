"""Named recipes: functions that return every setting of a model, from codec to student.

Variants are made with ``dataclasses.replace``. What a recipe scored is written beside it.
"""

from collections.abc import Callable
from dataclasses import replace

from asymtalker.config import (
    AudioTrainConfig,
    ChunkConfig,
    CodecConfig,
    CodecTrainConfig,
    DistillConfig,
    LoopConfig,
    MotionCodecTrainConfig,
    OptimizerConfig,
    Recipe,
    SamplerConfig,
    SpeechEncoderConfig,
    TeacherConfig,
    TransformerConfig,
)
from asymtalker.errors import UserError

WAN_BUCKETS = ((512, 512), (640, 416), (416, 640))
"""Square, portrait and landscape of about as many tokens: 1,024 and 1,040 a latent frame."""


def tiny() -> Recipe:
    """The bundled model: a codec of motion, trained on real clips and animated portraits; runs on a laptop's CPU."""
    chunk = ChunkConfig(frames=73, continuity_frames=5)  # GRID's clips have 75
    return Recipe(
        codec=MotionCodecTrainConfig(
            components=40,
            channels=64,
            widths=(32, 64, 96),
            loop=LoopConfig(steps=1_500, batch=16, log_every=20),
            optimizer=OptimizerConfig(
                lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=50, final_scale=0.05, ema_decay=0.99
            ),
        ),
        audio=AudioTrainConfig(
            model=SpeechEncoderConfig(
                hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=1536
            ),
            seconds=6.0,
            real_share=0.7,
            loop=LoopConfig(steps=1_200, batch=6, log_every=10, checkpoint_every=100),
            optimizer=OptimizerConfig(lr=4e-4, betas=(0.9, 0.98), warmup_steps=40, final_scale=0.03, ema_decay=0.99),
        ),
        teacher=TeacherConfig(
            model=TransformerConfig(
                num_attention_heads=4,
                attention_head_dim=64,
                ffn_dim=1024,
                num_layers=6,
                patch_size=(1, 1, 1),
                prediction_type="change",
                audio_modulation=True,
            ),
            chunk=chunk,
            elsewhere=0.25,
            exchange=0.8,
            audio_noise=0.1,
            tgc_weight=2.0,
            pixel_frames=chunk.frames,  # of motion, which costs nothing
            pixel_max_sigma=0.65,  # the last step of four begins at 0.625
            shift=5.0,
            loop=LoopConfig(steps=2_400, batch=32, sample_every=600),
            optimizer=OptimizerConfig(lr=8e-4, betas=(0.9, 0.95), final_scale=0.05, ema_decay=0.995),
        ),
        distill=DistillConfig(
            chunk=chunk,
            shift=5.0,
            min_sigma=0.05,
            guidance_scale=1.2,  # from 1.5 on lips open wider than real ones
            critic_updates=3,
            loop=LoopConfig(steps=175, batch=8, sample_every=175),
            student=OptimizerConfig(lr=5e-5, betas=(0.0, 0.999), warmup_steps=20, final_scale=0.2, ema_decay=0.99),
            critic=OptimizerConfig(lr=1e-4, betas=(0.0, 0.999), warmup_steps=20),
        ),
        sampler=SamplerConfig(num_steps=4, shift=5.0),
    )


def smoke() -> Recipe:
    """``tiny`` cut down until every stage runs in minutes, with a codec of Wan's kind as the real sizes have: proves
    the chain, not the picture."""
    recipe = tiny()
    assert recipe.audio
    chunk = ChunkConfig(frames=33, continuity_frames=5)
    return Recipe(
        codec=CodecTrainConfig(
            model=CodecConfig(
                base_dim=32,
                decoder_base_dim=24,
                z_dim=16,
                dim_mult=(1, 1, 1),
                num_res_blocks=0,
                temperal_downsample=(True, True),
                is_residual=False,
                patch_size=2,
            ),
            frames=9,
            crop=64,
            picture_fraction=0.3,
            kl_weight=1e-4,
            edge_weight=0.5,
            loop=LoopConfig(steps=30, batch=1, checkpoint_every=10),
            optimizer=OptimizerConfig(
                lr=5e-4, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=100, final_scale=0.05, ema_decay=0.99
            ),
        ),
        audio=replace(
            recipe.audio,
            model=replace(
                recipe.audio.model, hidden_size=96, num_hidden_layers=2, num_attention_heads=2, intermediate_size=192
            ),
            seconds=2.0,
            loop=LoopConfig(steps=30, batch=4, checkpoint_every=10),
        ),
        teacher=replace(
            recipe.teacher,
            model=replace(recipe.teacher.model, num_layers=2, patch_size=(1, 4, 4)),
            chunk=chunk,
            exchange=0.0,  # pixels can't
            tgc_weight=0.1,
            pixel_frames=5,
            pixel_max_sigma=0.5,
            pixel_every=3,
            loop=LoopConfig(steps=20, batch=1, checkpoint_every=10, sample_every=20),
        ),
        distill=replace(
            recipe.distill, chunk=chunk, critic_updates=2, loop=LoopConfig(steps=3, batch=1, checkpoint_every=1)
        ),
        sampler=recipe.sampler,
    )


def wan_1_3b() -> Recipe:
    """The paper's settings on Wan2.1-1.3B: published codec and wav2vec2, 15,000 + 1,600 steps.

    Its batch size of 4 does not say of how many GPUs. Samples of a step, the critic's updates in it and the sizes are
    ours: what the paper's 16 A100s can do in its 5 and 2 days (``docs/scale.md``).
    """
    model = TransformerConfig(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
    return _wan(model)


def wan_14b() -> Recipe:
    """The paper's settings on Wan2.1-14B."""
    model = TransformerConfig(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40)
    return _wan(model)


def _wan(model: TransformerConfig) -> Recipe:
    chunk = ChunkConfig(frames=81, continuity_frames=5)
    return Recipe(
        codec=None,
        audio=None,
        teacher=TeacherConfig(
            model=model,
            chunk=chunk,
            buckets=WAN_BUCKETS,
            shift=5.0,
            loop=LoopConfig(
                steps=15_000,
                batch=1,
                micro_batches=64,  # 4 on each of 16 GPUs
                checkpoint_every=500,
                sample_every=1_000,
                device="cuda",
                cache=False,  # of the paper's 217 hours it would be 3.4 TB
                gradient_checkpointing=True,
            ),
            optimizer=OptimizerConfig(lr=1e-5, ema_decay=0.999),
        ),
        distill=DistillConfig(
            chunk=chunk,
            buckets=WAN_BUCKETS,
            shift=5.0,
            critic_updates=1,
            loop=LoopConfig(
                steps=1_600,
                batch=1,
                micro_batches=48,  # 3 on each of 16 GPUs
                checkpoint_every=100,
                sample_every=200,
                device="cuda",
                cache=False,  # of the paper's 217 hours it would be 3.4 TB
                gradient_checkpointing=True,
            ),
            student=OptimizerConfig(lr=2e-6, betas=(0.0, 0.999), grad_clip=10.0, ema_decay=0.99),
            # as much in one update as in Self-Forcing's five of a fifth
            critic=OptimizerConfig(lr=2e-6, betas=(0.0, 0.999), grad_clip=10.0),
        ),
        sampler=SamplerConfig(num_steps=4, shift=5.0),
    )


def tiny_gt_gt() -> Recipe:
    """Table 4, (ground truth, ground truth): the student too is distilled on the real video's continuity."""
    recipe = tiny()
    return replace(recipe, distill=replace(recipe.distill, student_continuity="ground_truth"))


def tiny_gen_gen() -> Recipe:
    """Table 4, (generated, generated): the teacher judges on the student's own continuity."""
    recipe = tiny()
    return replace(recipe, distill=replace(recipe.distill, teacher_continuity="generated"))


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (smoke, tiny, tiny_gt_gt, tiny_gen_gen, wan_1_3b, wan_14b)
}


def recipe_named(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        UserError: if there is none.
    """
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name}: choose {', '.join(RECIPES)}.")
    return RECIPES[name]()
