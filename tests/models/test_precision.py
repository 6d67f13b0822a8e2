"""The precision of a device is chosen: bfloat16 where it is quick, float32 elsewhere, or what the user says."""

import pytest
import torch

from asymtalker.models import precision
from asymtalker.models.precision import choose_precision, describe_precision, quick_in_bfloat16, weights_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def processor(monkeypatch):
    """A processor with instructions for bfloat16 or none, and how many times as long a product takes in it."""

    def make(instructions: bool, times: float = 0.5) -> None:
        quick_in_bfloat16.cache_clear()
        monkeypatch.setattr(precision, "has_bfloat16", lambda: instructions)
        monkeypatch.setattr(precision, "_seconds", lambda dtype: times if dtype == torch.bfloat16 else 1.0)

    yield make
    quick_in_bfloat16.cache_clear()


@pytest.mark.parametrize(("instructions", "times", "chosen"), [
    (True, 0.5, torch.bfloat16),
    (True, 1.3, torch.bfloat16),
    (True, 60.0, None),
    (False, 0.5, None),
])  # fmt: skip
def test_a_processor_computes_in_bfloat16_only_if_it_has_instructions_that_are_quick(
    processor, instructions, times, chosen
):
    processor(instructions, times)
    assert choose_precision(CPU) == chosen
    assert weights_precision(CPU) == torch.float32


def test_a_gpu_computes_in_bfloat16(processor):
    processor(False)
    assert choose_precision(GPU) == weights_precision(GPU) == torch.bfloat16
    assert choose_precision(GPU, "float32") is None
    assert weights_precision(GPU, "float32") == torch.float32


def test_the_user_is_obeyed(processor):
    processor(False)
    assert choose_precision(CPU, "bfloat16") == torch.bfloat16
    processor(True)
    assert choose_precision(CPU, "float32") is None


def test_it_is_said(processor):
    processor(False)
    assert describe_precision(CPU, torch.float32) == "on cpu in float32, 1 thread"
    said = describe_precision(CPU, torch.bfloat16)
    assert said == "on cpu in bfloat16, 1 thread; float32 would be quicker on this processor"
    processor(True)
    assert describe_precision(CPU, torch.bfloat16) == "on cpu in bfloat16, 1 thread"


def test_this_processor_is_asked_once_and_quickly(monkeypatch):
    asked = []
    timed = precision._seconds
    quick_in_bfloat16.cache_clear()
    monkeypatch.setattr(precision, "_seconds", lambda dtype: asked.append(dtype) or timed(dtype))
    first = quick_in_bfloat16()
    assert quick_in_bfloat16() == first
    assert len(asked) <= 2
    if not precision.has_bfloat16():
        assert not first
        assert not asked, "what there are no instructions for need not be timed"
    quick_in_bfloat16.cache_clear()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_avx512_alone_is_not_enough(monkeypatch, machine):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert precision.has_bfloat16() == (has or machine == "aarch64")
