"""Measures the clips of several methods and keeps what it measured until clip or networks change."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asymtalker.errors import UserError
from asymtalker.evaluate.clips import REFERENCE, Clip, Method, Reference
from asymtalker.evaluate.measure import features
from asymtalker.evaluate.measure.cache import read_arrays, write_arrays
from asymtalker.evaluate.measure.features import Measured, measure_clip
from asymtalker.evaluate.measure.networks import Networks
from asymtalker.evaluate.measure.summary import ReferenceStatistics
from asymtalker.media.atomic import clear_unfinished, disk_is_full
from asymtalker.media.registry import REGISTRY
from asymtalker.timeline import FPS


class Measurer:
    """Measures the clips of all methods with the same networks, and keeps what it measured."""

    def __init__(
        self,
        folder: Path,
        reference: Reference,
        networks: Networks,
        console: Console,
    ):
        self.measured_minutes = 0.0
        self.failed: dict[str, dict[str, str]] = {}
        self._folder, self._reference, self._networks = folder, reference, networks
        self._console = console
        at_hand = {name: REGISTRY[name].files()[0].sha256 for name in networks.present()}
        self._keys: dict[str, dict[str, str]] = {}
        self._key = [features.VERSION, reference.size, at_hand]

    def measure(self, method: Method) -> dict[str, Measured]:
        """What was measured of each clip of a method; those that failed are in ``failed``."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        unmade = {name: why for name, why in method.about.get("failed", {}).items() if name in self._reference.clips}
        failed, measured = self.failed.setdefault(method.name, unmade), {}
        clear_unfinished(self._folder / method.name)
        with Progress(*columns, *times, console=self._console) as bars:
            for name in bars.track(method.clips, description=f"measuring {method.name}"):
                try:
                    measured[name] = self._clip(method.name, method.clips[name])
                    failed.pop(name, None)
                except (UserError, OSError) as error:
                    if disk_is_full(error):
                        raise
                    failed[name] = str(error)
                    bars.console.print(f"{method.name}, {name}: {error}", markup=False)
        return measured

    def _clip(self, method: str, clip: Clip) -> Measured:
        real = self._reference.clips.get(clip.name)
        key = json.dumps([*self._key, clip.stamp(), self._reference.stamp(clip.name), real and real.stamp()])
        self._keys.setdefault(method, {})[clip.name] = key
        path = self._folder / method / f"{clip.name}.npz"
        if kept := read_arrays(path, key):
            notes = json.loads(str(kept.pop("notes")))
            return Measured(kept, notes)
        portrait = _or_why(lambda: self._reference.portrait(clip.name))
        sound = _or_why(lambda: real.sound() if real else None)
        made = measure_clip(clip, portrait, self._reference.size, self._networks, sound)
        write_arrays(path, key, made.arrays | {"notes": np.array(json.dumps(made.notes))})
        self.measured_minutes += float(made.arrays["frames"]) / FPS / 60
        return made

    def reference_statistics(self, measured: Mapping[str, Measured]) -> ReferenceStatistics:
        """Of the real clips, kept like their features."""
        keys = json.dumps([self._keys[REFERENCE][name] for name in measured])
        key = hashlib.sha256(keys.encode()).hexdigest()
        return ReferenceStatistics(measured, self._folder / "statistics.npz", key)


def _or_why(read: Callable[[], np.ndarray | None]) -> np.ndarray | UserError | None:
    """What is read, or why it can't be."""
    try:
        return read()
    except UserError as error:
        return error
