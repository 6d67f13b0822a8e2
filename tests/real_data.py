"""Where pictures, clips and weights that are too large for the repository may lie; tests skip what is not there."""

import os
from pathlib import Path

DATA = Path(os.environ.get("ASYMTALKER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
