"""Where pictures, clips and weights that are too large for the repository may lie; tests skip what is not there."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("ASYMTALKER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
INPUTS = DATA / "inputs"
"""Small odd pictures and sounds."""
needs_inputs = pytest.mark.skipif(not INPUTS.is_dir(), reason="the odd inputs are not here")
