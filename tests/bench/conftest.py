import pytest

from asymtalker.bench import ceiling


@pytest.fixture
def _quick_ceiling(monkeypatch):
    """Measured with small matrices and few repeats: 1,024 of bfloat16 take most processors seconds a product."""
    monkeypatch.setitem(ceiling.SQUARE, "cpu", 64)
    monkeypatch.setattr(ceiling, "MEASURED_SECONDS", 0.01)
