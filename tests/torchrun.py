"""Commands under torchrun."""

import os
import subprocess
import sys


def torchrun(processes: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script or a module in so many processes, which find modules where this one does, until all have ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environ)
