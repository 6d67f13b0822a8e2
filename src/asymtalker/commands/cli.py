"""The ``asymtalker`` command: one verb per stage.

A verb's settings are a dataclass and its work a function; both are imported only when the verb is given, so that help
is quick and no verb needs the packages of another.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from itertools import pairwise
from typing import Any

import tyro

import asymtalker
from asymtalker.commands.exits import exit_by, steady_streams
from asymtalker.commands.threads import limit_threads
from asymtalker.errors import UserError, join_or


@dataclass(frozen=True)
class Verb:
    """Where a verb's settings and work are found, as ``"module:name"``."""

    summary: str
    settings: str
    """A dataclass, whose fields become flags; or a function of the arguments that returns one and its ``config``."""
    work: str
    """A function of one instance of it."""


KNOWN_WARNINGS = (
    "FSDP2-wrapped module .* returned a view tensor",  # see asymtalker.training.distributed.place
    "`torch.distributed._functional_collectives.all_gather_tensor` is deprecated",  # in diffusers
    "Float8Tensor does not implement",  # torchao's, compiled
)
"""Beginnings, as regular expressions, of what libraries warn developers of and no user can change."""

VERBS = {
    "generate": Verb(
        "make a talking video from a portrait and a voice, or many of a list",
        "asymtalker.commands.generation:Generate",
        "asymtalker.commands.generate:generate",
    ),
    "inspect": Verb(
        "tell what a file says of itself, and whether it was altered",
        "asymtalker.commands.inspect:Inspect",
        "asymtalker.commands.inspect:inspect",
    ),
    "serve": Verb(
        "serve a page and an API that do so",
        "asymtalker.serve.settings:Serve",
        "asymtalker.serve.run:serve",
    ),
    "synth": Verb(
        "make a synthetic corpus", "asymtalker.config:SynthConfig", "asymtalker.synth.run:synthesize_corpus"
    ),
    "reenact": Verb(
        "make a corpus of photographs that move as real people do",
        "asymtalker.synth.reenact:Reenact",
        "asymtalker.synth.reenact:reenact",
    ),
    "revoice": Verb(
        "have photo heads of a synthetic corpus say other things",
        "asymtalker.synth.revoice:Revoice",
        "asymtalker.synth.revoice:revoice",
    ),
    "curate": Verb("make a corpus of real videos", "asymtalker.curate.run:Curate", "asymtalker.curate.run:curate"),
    "train": Verb(
        "train the teacher, or its codec or audio encoder",
        "asymtalker.commands.stages:train_settings",
        "asymtalker.commands.stages:train",
    ),
    "encode": Verb(
        "encode a corpus for training beforehand",
        "asymtalker.commands.stages:encode_settings",
        "asymtalker.commands.stages:encode",
    ),
    "distill": Verb(
        "distil the student", "asymtalker.commands.stages:distill_settings", "asymtalker.commands.stages:distill"
    ),
    "convert": Verb(
        "make a checkpoint to train from, of Wan2.1's weights",
        "asymtalker.checkpoints.settings:Convert",
        "asymtalker.commands.stages:convert",
    ),
    "assemble": Verb(
        "put trained parts together into a checkpoint",
        "asymtalker.checkpoints.settings:Assemble",
        "asymtalker.commands.stages:assemble",
    ),
    "bench generate": Verb(
        "measure speed and memory of generation",
        "asymtalker.bench.settings:BenchGenerate",
        "asymtalker.bench.run:bench_generate",
    ),
    "bench train": Verb(
        "measure speed and memory of training steps",
        "asymtalker.bench.settings:BenchTrain",
        "asymtalker.bench.run:bench_train",
    ),
    "bench distill": Verb(
        "measure speed and memory of distillation steps",
        "asymtalker.bench.settings:BenchDistill",
        "asymtalker.bench.run:bench_distill",
    ),
    "evaluate": Verb(
        "measure videos against real ones, and write a report",
        "asymtalker.config:EvaluateConfig",
        "asymtalker.evaluate.run:evaluate",
    ),
    "benchmark": Verb(
        "prepare the videos of a test list",
        "asymtalker.evaluate.test_sets.prepare:Benchmark",
        "asymtalker.evaluate.test_sets.prepare:prepare_benchmark",
    ),
    "baseline": Verb(
        "run another talking-head system, to measure its videos beside ours",
        "asymtalker.evaluate.baselines.run:BaselineSettings",
        "asymtalker.evaluate.baselines.run:run_baseline",
    ),
}


def _named(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return (
        "usage: asymtalker VERB [OPTIONS]\n\n"
        "Identity-consistent talking-head video of any length, from one portrait and a voice.\n\n"
        + "\n".join(lines)
        + "\n\nOptions of a verb: asymtalker VERB --help"
    )


def parse(name: str, settings: Any, arguments: Sequence[str]) -> Any:
    """An instance of a verb's settings from its arguments.

    Args:
        name: the verb.
        settings: a dataclass, or a function of the arguments that returns one and the value of its ``config``.
        arguments: what follows the verb.

    Raises:
        UserError: one sentence for anything tyro finds wrong.
        SystemExit: after printing the help that was asked for.
    """

    default: Any = None
    if not isinstance(settings, type):
        settings, config = settings(arguments)
        required = {
            field.name: tyro.MISSING
            for field in fields(settings)
            if field.default is MISSING and field.name != "config"
        }
        default = settings(config=config, **required)

    def run(given: Sequence[str]) -> Any:
        options = {} if default is None else {"default": default}
        return tyro.cli(
            settings, prog=f"asymtalker {name}", args=given, config=(tyro.conf.FlagCreatePairsOff,), **options
        )

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return run(arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
    flags = set(re.findall(r"--[a-z][\w.-]*", _printed(lambda: run(["--help"]))))
    sentence = _unknown_flag(arguments, flags) or _sentence(_printed(lambda: run(arguments)), arguments)
    raise UserError(f"{sentence} See asymtalker {name} --help.")


def _printed(run: Callable[[], Any]) -> str:
    """What tyro prints before it exits; away from a terminal it draws rules in plain ASCII."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), contextlib.suppress(SystemExit):
        run()
    return text.getvalue()


def _unknown_flag(arguments: Sequence[str], flags: set[str]) -> str | None:
    """A sentence about the first flag that does not exist, which tyro mentions only when nothing else is wrong."""
    known = {flag.replace("_", "-") for flag in flags}
    for before, argument in pairwise(["", *arguments]):
        flag = argument.split("=")[0].replace("_", "-")
        if not re.match(r"-+[a-zA-Z]", flag) or flag in {*known, "-h"}:
            continue
        if before in known and not flag.startswith("--") and "." in flag:
            return f"{before} {argument} looks like an option: give the file as {before} ./{argument}."
        near = difflib.get_close_matches(flag, known, n=1) or [name for name in known if name.startswith(f"-{flag}")]
        return f"There is no option {flag}{f': did you mean {near[0]}?' if near else '.'}"
    return None


KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


def _sentence(printed: str, arguments: Sequence[str]) -> str:
    """What tyro says between its first two rules, in one sentence; of missing options their names alone, and of a
    wrong value what is right."""
    sections = re.split(r"^\s*-{4,}\s*$", printed, flags=re.MULTILINE)
    lines = [line.strip() for line in sections[min(1, len(sections) - 1)].splitlines() if line.strip()]
    said = " ".join(lines).rstrip(".:")
    if alone := re.match(r"Missing value for argument '(--\S+)'", said):
        return f"{alone[1]} is without a value."
    if lines and lines[0].startswith("Missing"):
        flags = [line.split()[0] for line in lines if line.startswith("--")]
        return f"Missing: {', '.join(flags) or 'a file'}."  # what else is without a flag here
    if wrong := re.match(r"Error parsing (--\S+):", said):
        flag = wrong[1]
        help_line = next((line.strip() for line in printed.splitlines() if line.strip().startswith(f"{flag} ")), flag)
        kinds = set(help_line.removeprefix(flag).strip().split("|")) - {"{None}"}
        given = next((f", not {value}" for name, value in pairwise(arguments) if name.replace("_", "-") == flag), "")
        if len(kinds) == 1 and (kind := KINDS.get(kinds.pop())):
            return f"{flag} takes {kind}{given}."
    return f"{said}."


def _run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] in ("--version", "-V"):
        print(f"asymtalker {asymtalker.__version__}")
        return
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in VERBS:
        near = [verb for verb in VERBS if verb.split()[0] == name] or difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {join_or(near)}?" if near else f"the verbs are {', '.join(VERBS)}."
        raise UserError(f"There is no verb {name}: {hint}")
    verb = VERBS[name]
    settings = parse(name, _named(verb.settings), rest)
    work: Callable[[Any], None] = _named(verb.work)
    work(settings)


def _quiet_libraries() -> None:
    """Keep to ourselves what libraries warn developers of, some of it while they are imported; their errors are
    exceptions."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    # of torchao's own types; of a home that may not be written to
    for name in ("torchao", "torch.utils._pytree", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; see :func:`asymtalker.commands.exits.exit_by`."""
    _quiet_libraries()
    limit_threads()
    with steady_streams():
        exit_by(lambda: _run(sys.argv[1:] if arguments is None else arguments))
