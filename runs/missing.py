"""Names the packages, pinned, that running asymtalker from its source takes and this Python lacks:
python runs/missing.py [FURTHER PACKAGE...]

What lacking ones need in their turn is seen when they are there: ask again. PyTorch is never named: a machine with a
GPU has the build that fits it.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("train",)


def plain(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(further: Iterable[str]) -> list[str]:
    """Requirements such as ``av==18.1.0``, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {plain(line.split("==")[0]): line for line in pinned}
    wanted = [*project["dependencies"], *further]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    seen, lacking = {"torch"}, []
    while wanted:
        requirement = Requirement(wanted.pop())
        name = plain(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            wanted += requires(name) or []
        except PackageNotFoundError:
            lacking.append(pins.get(name, name))
    return sorted(lacking)


if __name__ == "__main__":
    print(*missing(sys.argv[1:]))
