"""The precision of a device is chosen: bfloat16 where it is quick, float32 elsewhere, or what the user says."""

import pytest
import torch

from asymtalker.models import precision
from asymtalker.models.precision import choose_precision, describe_precision, weights_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def processor(monkeypatch):
    """A processor with instructions for bfloat16 or none."""
    return lambda instructions: monkeypatch.setattr(precision, "has_bfloat16", lambda: instructions)


@pytest.mark.parametrize(("instructions", "chosen"), [(True, torch.bfloat16), (False, None)])
def test_a_processor_computes_in_bfloat16_only_if_it_has_instructions(processor, instructions, chosen):
    processor(instructions)
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


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_avx512_alone_is_not_enough(monkeypatch, machine):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert precision.has_bfloat16() == (has or machine == "aarch64")
