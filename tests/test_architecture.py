"""The rules of docs/architecture.md that a machine can check."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "asymtalker"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
TOP = "the top"


@cache
def modules() -> dict[str, Path]:
    """All modules of the package by name."""
    dotted = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in SOURCES}
    return {name.removesuffix(".__init__"): path for path, name in dotted.items()}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it: in functions and under ``TYPE_CHECKING`` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else str(node.module))
    return names & modules().keys()


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that lead back to the first one, which is named again at the end; empty where there are none."""
    done: set[str] = set()

    def follow(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if circle := follow(following, [*way, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := follow(node, []))), [])


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_imports_go_in_a_circle():
    circle = find_circle({name: imports(path) - {name} for name, path in modules().items()})
    assert not circle, " -> ".join(circle)


def folder_of(module: str) -> str:
    """The folder of a module; ``rollout``, which runs networks, has a row of its own among those on top."""
    first = module.split(".")[1] if "." in module else ""
    if first == "rollout":
        return "rollout.py"
    return first if (PACKAGE / first).is_dir() and first else TOP


def allowed_imports() -> dict[str, set[str]]:
    """The table of docs/architecture.md: which folders each folder may import."""
    table = ARCHITECTURE.split("## Who imports whom")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `?([^|`]+?)`? \| ([^|]*) \|", table, re.MULTILINE)[2:]
    allowed: dict[str, set[str]] = {}
    for folder, names in rows:
        given = {name.strip(" `") for name in names.split(",")} - {"", "-"}
        allowed[folder] = set(allowed) if given == {"all of these"} else given
    return allowed


def test_folders_import_what_the_docs_allow():
    allowed = allowed_imports()
    for name, path in modules().items():
        own = folder_of(name)
        if path.name in ("__init__.py", "__main__.py") and own == TOP:
            continue
        assert own in allowed, f"{own} has no row in docs/architecture.md"
        for other in imports(path):
            folder = folder_of(other)
            assert folder == own or folder in allowed[own], f"{name} imports {other}: {own} must not import {folder}"


def test_the_docs_allow_only_what_is_above_and_used():
    allowed, above = allowed_imports(), set[str]()
    used: dict[str, set[str]] = {folder: set() for folder in allowed}
    for name, path in modules().items():
        if folder_of(name) in used:
            used[folder_of(name)] |= {folder_of(other) for other in imports(path)}
    for folder, others in allowed.items():
        assert others <= above, f"{folder} may import {others - above}, which stand below it"
        if folder != "commands":
            assert others <= used[folder], f"{folder} may import {others - used[folder]} and does not"
        above.add(folder)


def calls(function: ast.FunctionDef) -> Iterator[str]:
    """Names of what a function, with those written inside it, calls or hands on."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            for called in (node.func, *node.args):
                if isinstance(called, ast.Name):
                    yield called.id


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


@cache
def functions_of(module: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in tree_of(module).body if isinstance(node, ast.FunctionDef)}


def find_function(module: str, name: str, inside: ast.FunctionDef) -> tuple[str, ast.FunctionDef] | None:
    """The function that ``name`` is in a function of a module: its own module's, or one that is imported."""
    for node in (*ast.walk(inside), *tree_of(module).body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and str(node.module) in modules():
                    found = functions_of(str(node.module)).get(alias.name)
                    return (str(node.module), found) if found else None
    found = functions_of(module).get(name)
    return (module, found) if found else None


@pytest.mark.parametrize(
    ("verb", "losses"),
    [
        ("train", {"flow_matching_loss"}),
        ("distill", {"distribution_matching_loss", "anchor_loss", "flow_matching_loss"}),
    ],
)
def test_from_a_command_to_its_losses_are_three_calls(verb, losses):
    module = "asymtalker.commands.stages"
    reached, here = set[str](), [(module, functions_of(module)[verb])]
    for _ in range(3):
        called = [find_function(module, name, function) for module, function in here for name in calls(function)]
        here = [found for found in called if found]
        reached |= {function.name for module, function in here if module.endswith(".losses")}
    assert losses <= reached


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


def layout_in_the_docs() -> set[str]:
    """Files that the layout block names, with their folders: each line begins with one or goes on with the one above,
    and is set further in than the folder it lies in."""
    folders: dict[int, str] = {}
    files = set()
    for line in ARCHITECTURE.split("```")[1].splitlines()[2:]:
        depth = len(line) - len(line.lstrip())
        if match := re.match(r"\s*([\w/]+)/(?:\s|$)", line):
            folders = {at: name for at, name in folders.items() if at < depth} | {depth: match[1]}
        inside = [name for at, name in sorted(folders.items()) if at < depth or match]
        files |= {"/".join([*inside, name]) for name in re.findall(r"\b\w+\.py\b", line)}
    return files


def test_layout_in_the_docs_is_the_layout() -> None:
    real = {
        path.relative_to(PACKAGE).as_posix() for path in SOURCES if path.name not in ("__init__.py", "__main__.py")
    }
    assert real == layout_in_the_docs()


def test_links_and_files_named_in_the_docs_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "RESPONSIBLE_USE.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not re.match(r"https?://|mailto:", target):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_commands_of_the_readme_work_as_they_stand() -> None:
    """After ``make demo``, without an activated environment."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert any(line.startswith(".venv/bin/asymtalker generate") for line in lines)
    assert not [line for line in lines if re.match(r"(asymtalker|pip|python|torchrun)\b", line)]


def test_paper_map_names_things_that_exist() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in SOURCES}
    tests = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    rows = re.findall(r"^\|.*\|$", (ROOT / "docs" / "paper_map.md").read_text(), re.MULTILINE)
    named = re.findall(r"`([\w/]+\.py):(\w+)`", "\n".join(rows))
    assert len(named) > 20
    for file, name in named:
        text = tests[file] if file.startswith("tests/") else sources[file]
        assert re.search(rf"\b(def|class) {name}\b|^{name}\b", text, re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize("folder", ["benchmarks", "runs", "docs", "README.md"])
def test_what_scripts_and_docs_import_is_there(folder: str) -> None:
    """Also what shell scripts hand to Python, which nothing else imports."""
    pages = [page for page in (ROOT / folder, *(ROOT / folder).rglob("*")) if page.suffix in (".py", ".sh", ".md")]
    for page in pages:
        found = re.findall(r"^\s*from (asymtalker[\w.]*) import (\w[\w, ]*)", page.read_text(), re.MULTILINE)
        for module, names in found:
            for name in names.replace(",", " ").split():
                text = modules()[module].read_text() if module in modules() else ""
                there = f"{module}.{name}" in modules() or re.search(rf"^((def|class) )?{name}\b", text, re.MULTILINE)
                assert there, f"{page.name} imports {name} of {module}, which is not there"
