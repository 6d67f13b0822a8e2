"""Numbers and times as the report shows them."""

from collections.abc import Sequence

import numpy as np

NO_VALUE = '<span class="muted">–</span>'


def places_for(values: Sequence[float]) -> int:
    """Digits behind the point: the middle one of the values gets three that count; whole numbers get none."""
    if all(float(value).is_integer() for value in values):
        return 0
    middle = float(np.median(np.abs([value for value in values if value])))
    return int(np.clip(2 - np.floor(np.log10(middle)), 0, 5))


def decimal(value: float, places: int) -> str:
    """With a proper minus, and no minus before zeros."""
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text.replace("-", "−")


def seconds_text(seconds: float) -> str:
    """A length: tenths where they count."""
    return f"{seconds:.0f} s" if seconds >= 100 or float(seconds).is_integer() else f"{seconds:.1f} s"


def minutes(seconds: float) -> str:
    """A length of many clips."""
    return f"{seconds / 60:.1f} min"


def duration(seconds: float) -> str:
    """How long something took."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
