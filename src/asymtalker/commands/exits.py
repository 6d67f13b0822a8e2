"""How a command ends: a UserError as one sentence on stderr and exit code 2, and SIGTERM and SIGHUP as Ctrl-C, so that
what was made is kept and nothing half-written stays.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from asymtalker.errors import LostProcessError, UserError
from asymtalker.media.atomic import FULL_DISK


class _Steady:
    """A stream whose reader may leave, or whose disk may be full: what is written to it then is lost, and the work
    that it tells of goes on."""

    def __init__(self, stream: Any):
        self._stream, self._lost = stream, False
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # of letters that its encoding lacks

    def write(self, text: str) -> int:
        """Write as far as that is possible."""
        self._guard(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush as far as that is possible."""
        self._guard(self._stream.flush)

    def _guard(self, act: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            act()
        except (OSError, ValueError) as error:
            self._lost = True
            with contextlib.suppress(OSError, ValueError):  # or Python would try once more while shutting down
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, OSError) and error.errno in FULL_DISK and sys.stderr is not self:
                print(f"asymtalker: standard output could not be written ({error.strerror}).", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """Standard streams that change nothing about how the work ends, whatever becomes of them; where they are closed,
    their numbers are taken, or the next file that is opened would be written to by what writes to them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Steady(stream or open(os.devnull, "w")) for stream in streams)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    """One sentence for what can happen anywhere and is no mistake of ours: an extra that is not installed, a disk
    that is full, a folder or another process of the job that is gone."""
    try:
        _check_folder()  # or MKL ends the process in words of its own
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "asymtalker").split(".")[0]
        if missing == "asymtalker":
            raise
        raise UserError(
            f"This needs more packages ({missing} is missing): in the folder of the code,"
            " pip install -c constraints.txt '.[synth,train,evaluate,serve]'."
        ) from error
    except (OSError, UserError) as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise UserError("The disk is full: make room and give the same command again.") from error
        if isinstance(error, FileNotFoundError | UserError):
            _check_folder()
        raise
    except RuntimeError as error:
        if not _has_others():
            raise
        from asymtalker.training.distributed import GOES_ON, loss_of_process

        if not (reason := loss_of_process(error)):
            raise
        raise LostProcessError(f"Another process of this job was lost ({reason}): {GOES_ON}.") from error


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("The folder in which this was started was removed: start again in one that exists.") from error


@contextlib.contextmanager
def _stops_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, with their number, unless they are ignored as under nohup."""

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    stops = [stop for stop in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(stop) is not signal.SIG_IGN]
    before = [signal.signal(stop, interrupt) for stop in stops]
    try:
        yield
    finally:
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)


def _has_others() -> bool:
    """Whether this process has met others of its job."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def _exit(code: int) -> NoReturn:
    """End this process, having failed: one of several at once, see :func:`asymtalker.training.distributed.leave`."""
    if _has_others():
        with contextlib.suppress(OSError, ValueError):  # whoever reads them may be gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_by(work: Callable[[], None]) -> None:
    """Do some work and, if it fails, exit: 2 for bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.

    Of the processes of ``torchrun`` the first one speaks, and another where it alone has something to say.
    """
    rank = int(os.environ.get("RANK", 0))
    try:
        with _stops_interrupt(), _explain_errors():
            work()
        sys.stdout.flush()
        if _has_others():
            from asymtalker.training.distributed import leave

            leave()
    except UserError as error:
        if rank > 0 and not isinstance(error, LostProcessError):
            time.sleep(10)  # where the first process has found the same, torchrun ends this one meanwhile
        print(f"asymtalker: {error}", file=sys.stderr)
        _exit(2)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
            if rank > 0 or (number == signal.SIGTERM and "RANK" in os.environ):  # torchrun's, not the user's
                if _has_others():
                    time.sleep(2)  # in which the thread of asymtalker.training.distributed says so
                _exit(128 + number)
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            print(f"asymtalker: stopped by {name}.", file=sys.stderr)
        _exit(128 + number)
    except Exception:
        if not _has_others():
            raise
        traceback.print_exc()
        _exit(1)
