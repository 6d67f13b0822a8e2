"""The rules of docs/architecture.md that a machine can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "asymtalker"
# Data flows one way: a stage may import parts and earlier stages, never a later one.
STAGES = (
    "synth",
    "curate",
    "parts",
    "train",
    "distill",
    "generate",
    "checkpoints",
    "sizing",
    "bench",
    "evaluate",
    "serve",
    "commands",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("asymtalker.") for name in names if name.startswith("asymtalker.")}


def stage_of(path: Path) -> str | None:
    folder = path.relative_to(PACKAGE).parts[0]
    return folder if folder in STAGES else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_later_stage(path: Path) -> None:
    if path.name in ("cli.py", "stages.py"):  # the commands, which start every stage
        return
    own = stage_of(path)
    for name in imported_modules(path):
        stage = name.split(".")[0]
        if stage not in STAGES:
            continue
        assert own is not None, f"{path.name} is a part and imports the stage {stage}"
        assert STAGES.index(stage) <= STAGES.index(own), f"{own} imports the later stage {stage}"


def test_no_module_is_called_utils() -> None:
    assert not [path for path in SOURCES if re.search(r"util|helper|common|misc", path.stem)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    limit = 700 if path.parent.name == "models" else 500
    assert text.count("\n") <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 80, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_say_what_they_do(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_layout_in_the_docs_is_the_layout() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    layout = text.split("```")[1]
    for path in SOURCES:
        relative = path.relative_to(PACKAGE)
        if path.name in ("__init__.py", "__main__.py"):
            continue
        assert relative.name in layout, f"{relative} is not in docs/architecture.md"


def test_links_and_files_named_in_the_docs_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "RESPONSIBLE_USE.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not re.match(r"https?://|mailto:", target):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_paper_map_names_things_that_exist() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in SOURCES}
    tests = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    rows = re.findall(r"^\|.*\|$", (ROOT / "docs" / "paper_map.md").read_text(), re.MULTILINE)
    named = re.findall(r"`([\w/]+\.py):(\w+)`", "\n".join(rows))
    assert len(named) > 20
    for file, name in named:
        text = tests[file] if file.startswith("tests/") else sources[file]
        assert re.search(rf"\b(def|class) {name}\b|^{name}\b", text, re.MULTILINE), f"{file} has no {name}"
