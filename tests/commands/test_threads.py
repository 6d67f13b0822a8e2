"""Threads of a command: what the user says, else no more than the cores that a container grants."""

import math
import os
import subprocess
import sys

import pytest

from asymtalker.commands import threads
from asymtalker.commands.threads import granted_cores, limit_threads


def group(root, name: str, **files: str):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("cpu_", "cpu.")).write_text(f"{text}\n")


def own(root, *lines: str):
    path = root / "own"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_second_version_limits_a_group_and_those_within(tmp_path):
    group(tmp_path, "", cpu_max="max 100000")
    group(tmp_path, "jobs", cpu_max="150000 100000")
    group(tmp_path, "jobs/mine", cpu_max="max 100000")
    assert granted_cores(tmp_path, own(tmp_path, "0::/jobs/mine")) == 1.5
    assert granted_cores(tmp_path, own(tmp_path, "0::/")) == math.inf


def test_the_first_version_has_a_tree_for_each_controller(tmp_path):
    group(tmp_path, "cpu", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    group(tmp_path, "cpu/jobs", cpu_cfs_quota_us="400000", cpu_cfs_period_us="100000")
    lines = "7:memory:/other", "4:cpu,cpuacct:/jobs", "0::/"
    assert granted_cores(tmp_path, own(tmp_path, *lines)) == 4
    assert granted_cores(tmp_path, own(tmp_path, "4:cpu,cpuacct:/")) == math.inf


def test_within_a_container_its_group_is_the_root(tmp_path):
    group(tmp_path, "cpu", cpu_cfs_quota_us="50000", cpu_cfs_period_us="100000")
    assert granted_cores(tmp_path, own(tmp_path, "4:cpu:/docker/0123")) == 0.5


def test_without_groups_nothing_is_limited(tmp_path):
    assert granted_cores(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize(("granted", "given", "expected"), [
    (0.5, None, "1"),
    (2.5, None, "2"),
    (2.5, "8", "8"),
    (math.inf, None, None),
])  # fmt: skip
def test_a_command_takes_no_more_threads_than_cores_are_granted(monkeypatch, granted, given, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(threads, "granted_cores", lambda: granted)
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": given} if given else {})
    limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_core_to_others(monkeypatch, given, expected):
    monkeypatch.setattr(threads, "granted_cores", lambda: math.inf)
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": given} if given else {})
    limit_threads()
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_it_is_in_time():
    """The command line limits threads before it imports what starts them."""
    looked = (
        "import sys\nfrom asymtalker.commands import cli, threads\n"
        "cli.limit_threads = lambda: print('torch' in sys.modules)\n"
        "cli.main(['--version'])"
    )
    said = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[0] == "False"
