"""Commands under torchrun, and functions in processes of their own that import nothing anew."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

# What takes longer to import than most tests then take is imported once, by a process that does nothing else but fork.
# Forks of the tests' own process would also have their threads' locks, and what native code holds of them.
# To be started as daemons: one that a failing test leaves would be waited for at the end.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["asymtalker.commands.cli", "asymtalker.generate.pipeline", "asymtalker.train.teacher", "asymtalker.distill.loop"]
)


def torchrun(processes: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script or a module in so many processes, which find modules where this one does, until all have ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environ)


def torchrun_forks(processes: int, work: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess:
    """The same of a function, by what torchrun is made of."""
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="test",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(folder, Std.ALL),
            signals_to_handle="SIGQUIT",  # the others stay with the tests
        )
        try:
            elastic_launch(config, work)(*arguments)
            code = 0
        except ChildFailedError:
            code = 1
        out, err = (
            "".join(path.read_text() for path in sorted(Path(folder).rglob(name)))
            for name in ("stdout.log", "stderr.log")
        )
    return subprocess.CompletedProcess(work.__name__, code, out, err)
