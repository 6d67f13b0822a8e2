import torch

from asymtalker.train.losses import (
    face_focus_loss,
    flow_matching_loss,
    temporal_consistency_loss,
)


def frames(seed: int):
    return torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_losses_vanish_at_the_truth():
    x = frames(0)
    mask = torch.ones(2, 1, 5, 4, 4)
    assert flow_matching_loss(x, x) == 0
    assert temporal_consistency_loss(x, x) == 0
    assert face_focus_loss(x, x, mask) == 0


def test_flow_matching_is_the_mean_square():
    a, b = frames(0), frames(1)
    torch.testing.assert_close(flow_matching_loss(a, b), torch.nn.functional.mse_loss(a, b))


def test_temporal_consistency_ignores_what_does_not_move():
    x = frames(0)
    still = torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(temporal_consistency_loss(x + still, x), torch.tensor(0.0), atol=1e-6, rtol=0)
    drift = torch.arange(5).view(1, 1, 5, 1, 1) * 0.5
    torch.testing.assert_close(temporal_consistency_loss(x + drift, x), torch.tensor(0.5))


def test_face_focus_sees_the_face_alone():
    x = frames(0)
    mask = torch.zeros(2, 1, 5, 4, 4)
    mask[..., :2] = 1
    assert face_focus_loss(x + (1 - mask), x, mask) == 0
    torch.testing.assert_close(face_focus_loss(x + 1, x, mask), torch.tensor(0.5))
