"""How many threads a command computes with: no more than the cores that it may use, and considerate of other work."""

import math
import os
from pathlib import Path


def limit_threads() -> None:
    """Tell PyTorch and its like, before they are imported, to start no more threads than a container grants cores
    (those that a process is bound to they see themselves), and not to keep a core busy with waiting: threads that spin
    until the last of them is done make two processes on the same cores several times as slow. What the user has set
    stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = max(1, granted_cores())
    if granted < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(int(granted)))


def granted_cores(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that Linux' control groups, of either version, leave this process; infinite without limit.

    Args:
        mounted: where the groups are.
        own: file that says which of them this process is in.
    """
    least = math.inf
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / "cpu" if controllers else mounted  # of version 1 every controller has its own tree
        folder = root / group.strip("/")  # which from within a container may not be there: then the root is its own
        while True:
            least = min(least, _limit(folder))  # of a group holds for those within
            if folder == root:
                break
            folder = folder.parent
    return least


def _limit(folder: Path) -> float:
    """Microseconds of work over those of time, as a group's files have them."""
    if (both := folder / "cpu.max").exists():
        quota, period = both.read_text().split()
    elif (first := folder / "cpu.cfs_quota_us").exists():
        quota, period = first.read_text().strip(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
