"""The command without a model: what it imports and logs, and how Ctrl-C ends it."""

import logging
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import uvicorn

from asymtalker.commands.cli import main
from torchrun import FORKS


def forked(work, *arguments):
    """A process that does some work, and what it sends."""
    got, sent = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=work, args=(sent, *arguments), daemon=True)
    process.start()
    sent.close()
    return process, got


def begin(out: Connection, data: Path, *more: str) -> None:
    """The command as far as where it would begin to serve; tells whether it has Gradio by then, and what is logged of
    those who call."""

    def tell(*_, **__):
        noted = [name for name in ("aioice.ice", "httpx") if logging.getLogger(name).isEnabledFor(logging.INFO)]
        out.send(("gradio" in sys.modules, noted))

    uvicorn.Server.run = tell
    main(["serve", "--port", "0", "--data", str(data), *more])


@pytest.mark.parametrize(("more", "page"), [(["--no-page"], False), ([], True)])
def test_gradio_is_imported_for_the_page_alone_and_addresses_are_not_logged(tmp_path, more, page):
    process, got = forked(begin, tmp_path, *more)
    assert got.recv() == (page, [])
    process.join(30)


def load_for_minutes(out: Connection, data: Path) -> None:
    """The command, whose model takes longer to load than anybody waits."""
    from asymtalker.serve import making

    def load(*_):
        out.send("loading")
        time.sleep(300)

    making.LocalMaker = load  # pyright: ignore[reportAttributeAccessIssue]
    main(["serve", "--port", "0", "--no-page", "--data", str(data)])


def test_a_second_ctrl_c_ends_it_at_once_while_its_model_is_loaded(tmp_path):
    process, got = forked(load_for_minutes, tmp_path)
    assert got.recv() == "loading"
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(2)
    assert process.is_alive(), "the first one waits for what is being loaded"
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(10)
    code = process.exitcode
    process.kill()  # or where this fails it would be waited for
    assert code == 128 + signal.SIGINT
