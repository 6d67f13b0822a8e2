"""The Wan2.1 DiT driven by audio: text gives way to frame-aligned audio, identity and continuity join the channels.

Letters in shape comments: ``B`` batch, ``C`` latent channels, ``T`` latent frames, ``H W`` latent height and width,
``L = T H' W'`` tokens after patching, ``D`` width, ``F`` frames, ``A`` audio feature size, ``N`` audio slots per
latent frame, ``I`` image tokens.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
    WanTransformerBlock,
)
from torch import Tensor, nn

from asymtalker import timeline

MASK_CHANNELS = timeline.TEMPORAL_COMPRESSION  # one per frame of a latent frame, as in Wan2.1 I2V


def attend(query: Tensor, key: Tensor, value: Tensor, backend: Any = None, parallel_config: Any = None) -> Tensor:
    """Attention of ``(B, L, heads, d)`` on ``(B, N, heads, d)``: diffusers' dispatch, save for bfloat16 on a CPU.

    There two matrix products and a softmax take half the time of PyTorch's kernel forwards and backwards together
    (1,344 tokens, one core with AVX-512 BF16), and a tenth of it for a few keys, at the price of keeping the weights.
    With ``parallel_config`` the tokens of the other processes are attended to as well.
    """
    on_cpu = value.device.type == "cpu" and value.dtype == torch.bfloat16
    if on_cpu and backend is None and parallel_config is None:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return (scores.softmax(-1) @ value).transpose(1, 2)
    return dispatch_attention_fn(query, key, value, backend=backend, parallel_config=parallel_config)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of ``(B, L, heads, d)``: turns neighbouring channels by angles ``(1, L, 1, d)``."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    return (states * cos + turned * sin).type_as(states)


def unrounded(device: torch.device) -> AbstractContextManager:
    """What depends on the noise level alone is computed as it is given, in float32, also under autocast, as in Wan:
    rounded, noise levels next to each other would be one."""
    if device.type == "meta":  # where there is no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class FrameBatchedAttnProcessor:
    """Self-attention over all tokens of a chunk. Outside it the latent frames of a chunk stand in the batch axis."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``hidden_states`` ``(B T, H' W', D)``, ``rotary_emb`` of ``L`` tokens; returns ``(B T, H' W', D)``."""
        assert rotary_emb is not None, "self-attention needs positions"
        cos, sin = rotary_emb
        tokens = hidden_states.reshape(-1, cos.shape[1], hidden_states.shape[-1])  # (B, L, D)
        query = rotate(_normed(attn.norm_q, attn.to_q(tokens)).unflatten(2, (attn.heads, -1)), cos, sin)
        key = rotate(_normed(attn.norm_k, attn.to_k(tokens)).unflatten(2, (attn.heads, -1)), cos, sin)
        value = attn.to_v(tokens).unflatten(2, (attn.heads, -1))
        mixed = attend(query, key, value, self._attention_backend, self._parallel_config)
        mixed = mixed.flatten(2, 3).type_as(hidden_states).reshape(hidden_states.shape)
        return attn.to_out[1](attn.to_out[0](mixed))


def _normed(norm: nn.RMSNorm, values: Tensor) -> Tensor:
    """Values normed, of the type they have: under autocast the norm's weights are in float32 and they in less, which
    it would warn of, and attention wants queries and keys of the values' type."""
    return norm(values.to(norm.weight.dtype)).type_as(values)


class FrameAlignedAttnProcessor:
    """Cross-attention in which the tokens of a latent frame see the audio slots of that latent frame and no others.

    With image tokens (the CLIP and VTP strategies of appendix G) every token also attends to all of them through the
    added projections, and the two results are summed.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, num_audio_tokens: int):
        self.num_audio_tokens = num_audio_tokens

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``hidden_states`` ``(B T, H' W', D)``, ``encoder_hidden_states`` ``(B, T, N + I, D)``; like the first."""
        assert encoder_hidden_states is not None, "frame-aligned attention needs audio"
        audio = encoder_hidden_states[:, :, : self.num_audio_tokens].flatten(0, 1)  # (B T, N, D)
        image = encoder_hidden_states[:, 0, self.num_audio_tokens :]  # (B, I, D)

        query = _normed(attn.norm_q, attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))  # (B T, H' W', heads, d)
        key = _normed(attn.norm_k, attn.to_k(audio)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(audio).unflatten(2, (attn.heads, -1))
        mixed = attend(query, key, value, self._attention_backend).flatten(2, 3).type_as(hidden_states)

        if attn.add_k_proj is not None:
            key = _normed(attn.norm_added_k, attn.add_k_proj(image)).unflatten(2, (attn.heads, -1))
            value = attn.add_v_proj(image).unflatten(2, (attn.heads, -1))
            query = query.reshape(len(image), -1, *query.shape[2:])  # (B, L, heads, d)
            seen = attend(query, key, value, self._attention_backend)
            mixed = mixed + seen.reshape(mixed.shape).type_as(mixed)

        return attn.to_out[1](attn.to_out[0](mixed))


class FrameTokens(nn.Module):
    """Lays out the tokens of a chunk by latent frame. A module without weights, because context parallelism splits
    what modules take and give: here the tokens of every latent frame are dealt out to the processes."""

    def forward(self, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches ``(B, D, T, H', W')`` and the rotary embedding of ``L`` tokens ``(1, L, 1, d)``, twice, to
        ``(B T, H' W', D)`` and ``(T, H' W', 1, d)``, twice."""
        frames = hidden_states.shape[2]
        # Latent frames stand in the batch axis: each has its noise level there without a copy for every token.
        tokens = hidden_states.flatten(3).permute(0, 2, 3, 1).flatten(0, 1).contiguous()
        return tokens, cos[0].unflatten(0, (frames, -1)), sin[0].unflatten(0, (frames, -1))


class VisualTokenEmbedding(nn.Module):
    """Embedding of discrete visual tokens with learned positions (eq. 28); the projection is the image embedder's.

    One table of 2^18 rows would hold more weights than a small network and meet each row only a few times in training,
    so the bits of an index are split in two halves with a table each, and the two are summed.

    Args:
        codebook_bits: bits of a token.
        num_tokens: tokens of a picture.
        dim: size of the embedding.
    """

    def __init__(self, codebook_bits: int, num_tokens: int, dim: int):
        super().__init__()
        self.low_bits = codebook_bits // 2
        self.low = nn.Embedding(2**self.low_bits, dim)
        self.high = nn.Embedding(2 ** (codebook_bits - self.low_bits), dim)
        self.positions = nn.Parameter(torch.randn(num_tokens, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Indices ``(B, I)``, int64, to ``(B, I, dim)``."""
        low = self.low(tokens & (2**self.low_bits - 1))
        return low + self.high(tokens >> self.low_bits) + self.positions


class AsymTalkerTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    r"""Wan2.1 transformer with audio cross-attention (section 3.1) and identity and continuity channels (3.2, 3.3).

    Args:
        patch_size: patch in latent frames, height and width; the first is 1, as noise level and sound are per latent
            frame.
        num_attention_heads: heads per layer.
        attention_head_dim: channels per head.
        latent_channels: channels of the codec; the input holds ``latent_channels`` noisy channels, 4 mask channels and
            ``identity_channels`` more.
        identity_channels: channels of the identity latents (TRE, ETR), 0 for the image-token strategies (CLIP, VTP).
        audio_dim: size of a wav2vec feature.
        audio_context: frames of audio on both sides of a latent frame's own that its tokens attend to.
        freq_dim: size of the sinusoidal time embedding.
        ffn_dim: inner size of the feed-forward layers.
        num_layers: number of blocks.
        cross_attn_norm: norm before cross-attention, as in Wan.
        eps: epsilon of the norms.
        audio_modulation: let the audio of a latent frame, besides being attended to, shift, scale and gate its tokens
            in every block as the noise level does [ours]. What sound does to a mouth depends on the mouth: a product
            of the two, which a short training finds sooner here than in what attention adds.
        image_dim: size of an image token (CLIP, VTP), ``None`` without.
        image_codebook_bits: bits of a discrete image token (VTP), ``None`` where image tokens are features.
        num_image_tokens: discrete image tokens of a picture (VTP).
        rope_max_seq_len: longest axis the rotary embedding covers.
        prediction_type: what :func:`asymtalker.rollout.predict_velocity` takes the output for. ``"velocity"`` is
            Wan's. With ``"change"`` [ours] noisy latents are given, and their velocity is predicted, as a change of
            the identity latents, since latents may tell people apart by far more than they move; and the output is
            what a linear estimate of that velocity from the noisy latents lacks (Karras et al. 2022), which a short
            training finds sooner.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ("patch_embedding", "condition_embedder", "norm")
    _no_split_modules = ("WanTransformerBlock",)
    _keep_in_fp32_modules: ClassVar = [
        "time_embedder",
        "time_proj",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
    ]  # not a tuple
    _repeated_blocks = ("WanTransformerBlock",)
    _cp_plan: ClassVar = {
        "frame_tokens": {
            index: ContextParallelInput(split_dim=1, expected_dims=dims, split_output=True)
            for index, dims in enumerate((3, 4, 4))
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        latent_channels: int = 16,
        identity_channels: int = 16,
        audio_dim: int = 768,
        audio_context: int = 2,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        audio_modulation: bool = False,
        image_dim: int | None = None,
        image_codebook_bits: int | None = None,
        num_image_tokens: int = 256,
        rope_max_seq_len: int = 1024,
        prediction_type: str = "velocity",
    ) -> None:
        super().__init__()
        if prediction_type not in ("velocity", "change"):
            raise ValueError(f"prediction_type must be 'velocity' or 'change', got {prediction_type!r}")
        if patch_size[0] != 1:
            raise ValueError(f"a patch must span one latent frame, got {patch_size[0]}")
        width = num_attention_heads * attention_head_dim
        in_channels = latent_channels + MASK_CHANNELS + identity_channels
        self.num_audio_tokens = timeline.TEMPORAL_COMPRESSION + 2 * audio_context

        self.rope = WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.frame_tokens = FrameTokens()
        # Its text_embedder is the MLP that projects wav2vec features, its image_embedder the one for image tokens.
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=width,
            time_freq_dim=freq_dim,
            time_proj_dim=6 * width,
            text_embed_dim=audio_dim,
            image_embed_dim=image_dim,
        )
        self.visual_tokens = None
        if image_codebook_bits is not None:
            if image_dim is None:
                raise ValueError("image_codebook_bits needs image_dim")
            self.visual_tokens = VisualTokenEmbedding(image_codebook_bits, num_image_tokens, image_dim)
        self.audio_slots = nn.Parameter(torch.zeros(self.num_audio_tokens, width))  # which frame of the window
        self.audio_modulator = None
        if audio_modulation:
            self.audio_modulator = nn.Sequential(
                nn.Linear(self.num_audio_tokens * audio_dim, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, 7 * width),  # 6 for the blocks, as the time embedding's, 1 for the output layer
            )
        self.blocks = nn.ModuleList(
            WanTransformerBlock(
                width,
                ffn_dim,
                num_attention_heads,
                "rms_norm_across_heads",
                cross_attn_norm,
                eps,
                width if image_dim is not None else None,
            )
            for _ in range(num_layers)
        )
        for block in self.blocks:
            block.attn1.set_processor(FrameBatchedAttnProcessor())
            block.attn2.set_processor(FrameAlignedAttnProcessor(self.num_audio_tokens))
        self.norm_out = FP32LayerNorm(width, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(width, latent_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.gradient_checkpointing = False

    def initialize(self) -> None:
        """Weights to train from nothing: Xavier linears, output layer zero.

        The feed-forward layers work from the start, what mixes tokens and what depends on noise or sound comes in by
        training: Wan's small random gates would keep the first from learning, and the others would drown it.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in (self.condition_embedder.time_embedder.linear_1, self.condition_embedder.time_embedder.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.normal_(self.audio_slots, std=0.1)
        if self.audio_modulator is not None:
            nn.init.normal_(cast(nn.Linear, self.audio_modulator[-1]).weight, std=0.02)
        for block in cast(Iterable[WanTransformerBlock], self.blocks):
            nn.init.zeros_(cast(nn.Linear, block.attn2.to_out[0]).weight)
            block.scale_shift_table.data[:, 5] += 1  # the gate of the feed-forward layer
        nn.init.zeros_(self.proj_out.weight)

    def embed_noise_level(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """What a noise level says to the output layer ``(N, D)`` and to the blocks ``(N, 6 D)``, of ``(N,)`` noise
        levels times 1,000; float32, or the weights' own type where they are stored in fewer bits."""
        embedder = self.condition_embedder
        with unrounded(timestep.device):
            waves = embedder.timesteps_proj(timestep)
            temb = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype))
            return temb, embedder.time_proj(embedder.act_fn(temb).to(embedder.time_proj.weight.dtype))

    def audio_windows(self, audio: Tensor) -> Tensor:
        """Give each latent frame the audio tokens of its own frames and their context.

        Args:
            audio: ``(B, F + 2 context, D)``; index ``k`` is frame ``k - context`` of the chunk.

        Returns:
            ``(B, T, N, D)``. Latent frame 0 has fewer frames of its own: its first slots repeat its first frame.

        Raises:
            ValueError: if ``F`` is not ``1 + 4m``.
        """
        timeline.latents_of_frames(audio.shape[1] - 2 * self.config.audio_context)
        first = audio[:, :1].expand(-1, timeline.TEMPORAL_COMPRESSION - 1, -1)
        windows = torch.cat([first, audio], dim=1).unfold(1, self.num_audio_tokens, timeline.TEMPORAL_COMPRESSION)
        return windows.transpose(2, 3)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity of a chunk, or what ``prediction_type`` says.

        Args:
            hidden_states: ``(B, latent_channels + 4 + identity_channels, T, H, W)``: noisy latents, mask (1 where a
                latent frame is given), identity latents.
            timestep: noise level times 1,000, ``(B,)``, or ``(B, T)`` for one per latent frame.
            encoder_hidden_states: wav2vec features ``(B, F + 2 audio_context, A)`` with ``F = 1 + 4 (T - 1)``.
            encoder_hidden_states_image: image tokens: features ``(B, I, image_dim)`` (CLIP), indices ``(B, I)`` (VTP).
            return_dict: return a ``Transformer2DModelOutput`` instead of a tuple.

        Returns:
            ``sample`` of shape ``(B, latent_channels, T, H, W)``.
        """
        batch, _, num_latents, height, width = hidden_states.shape
        _, p_h, p_w = self.config.patch_size
        rows, columns = height // p_h, width // p_w

        cos, sin = self.rope(hidden_states)
        hidden_states, cos, sin = self.frame_tokens(self.patch_embedding(hidden_states), cos, sin)
        rotary_emb = (cos.flatten(0, 1)[None], sin.flatten(0, 1)[None])

        if self.visual_tokens is not None and encoder_hidden_states_image is not None:
            encoder_hidden_states_image = self.visual_tokens(encoder_hidden_states_image)
        if timestep.ndim == 1:
            timestep = timestep[:, None].expand(-1, num_latents)
        temb, modulation = self.embed_noise_level(timestep.flatten())  # (B T, D), (B T, 6 D)
        audio = self.condition_embedder.text_embedder(encoder_hidden_states)  # (B, F + 2 context, D)
        image = None
        if encoder_hidden_states_image is not None:
            image = self.condition_embedder.image_embedder(encoder_hidden_states_image)  # (B, I, D)
        if self.audio_modulator is not None:
            heard = self.audio_modulator(self.audio_windows(encoder_hidden_states).flatten(2)).flatten(0, 1)
            of_blocks, of_output = heard.tensor_split([modulation.shape[-1]], dim=-1)
            modulation, temb = modulation + of_blocks, temb + of_output
        modulation = modulation.unflatten(-1, (6, -1))  # (B T, 6, D)
        context = self.audio_windows(audio) + self.audio_slots  # (B, T, N, D)
        if image is not None:
            context = torch.cat([context, image[:, None].expand(-1, context.shape[1], -1, -1)], dim=2)

        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(
                    block, hidden_states, context, modulation, rotary_emb
                )
            else:
                hidden_states = block(hidden_states, context, modulation, rotary_emb)

        shift, scale = (self.scale_shift_table + temb[:, None]).chunk(2, dim=1)  # (B T, 1, D)
        hidden_states = (self.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        hidden_states = self.proj_out(hidden_states)  # (B T, H' W', p_h p_w C)

        sample = hidden_states.reshape(batch, num_latents, rows, columns, p_h, p_w, -1)
        sample = sample.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, C, T, H, W)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)
