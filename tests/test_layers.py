"""The layers of the package: imports go downwards only, and the command line loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# lowest first; modules of one layer may import each other
LAYERS = (
    {"errors", "words", "files", "yamlfile", "documents", "config", "space"},
    {"data"},
    {"method"},
    {"search"},
    {"results"},
    {"cli"},
)
SEARCH_TOOLS = {"ray", "optuna", "mlflow"}
HEAVY = SEARCH_TOOLS | {"torch", "pandas", "numpy", "scipy", "matplotlib", "safetensors"}


def package() -> Path:
    spec = find_spec("d3tune")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def modules() -> Iterator[tuple[str, Path]]:
    root = package()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = [(name, path) for name, path in modules() if name]
LOWER = [(name, path) for name, path in MODULES if name.split(".")[0] not in {"search", "results", "cli"}]
CLI = [(name, path) for name, path in MODULES if name.split(".")[0] == "cli"]
METHOD = [(name, path) for name, path in MODULES if name.split(".")[0] == "method"]


def imported(node: ast.AST, module: str, path: Path) -> list[str]:
    """The absolute names that an import statement loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = ["d3tune", *module.split(".")]
        parts = parts[: len(parts) - node.level + (path.name == "__init__.py")]
        base = ".".join([*parts, base]).rstrip(".")
    # "from d3tune import data" names a module, "from d3tune.config import Head" does not
    return [f"{base}.{alias.name}" for alias in node.names] if base == "d3tune" else [base]


def all_imports(module: str, path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [name for node in ast.walk(tree) for name in imported(node, module, path)]


def layer(module: str) -> int:
    top = module.split(".")[0]
    ranks = [rank for rank, names in enumerate(LAYERS) if top in names]
    assert ranks, f"d3tune/{top} is in no layer"
    return ranks[0]


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_go_downwards(module: str, path: Path) -> None:
    rank = layer(module)
    for name in all_imports(module, path):
        if name.startswith("d3tune.") and not name.startswith("d3tune.__"):
            target = name.removeprefix("d3tune.")
            assert layer(target) <= rank, f"{module} imports {target}, which is above it"


@pytest.mark.parametrize(("module", "path"), LOWER, ids=[name for name, _ in LOWER])
def test_science_and_data_know_no_search_tool(module: str, path: Path) -> None:
    tops = {name.split(".")[0] for name in all_imports(module, path)}
    assert not tops & SEARCH_TOOLS


@pytest.mark.parametrize(("module", "path"), METHOD, ids=[name for name, _ in METHOD])
def test_method_knows_neither_files_nor_clock(module: str, path: Path) -> None:
    names = set(all_imports(module, path))
    tops = {name.split(".")[0] for name in names}
    assert not tops & {"os", "pathlib", "time", "datetime", "io", "random", "logging", "sys"}
    assert not names & {"d3tune.files", "d3tune.yamlfile"}
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "open"]


RANDOM = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
RANDOM_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
HIDDEN_RANDOM = {"manual_seed", "rand_like", "randn_like", "dropout", "Dropout", "kaiming_uniform_", "seed"}


@pytest.mark.parametrize(("module", "path"), METHOD, ids=[name for name, _ in METHOD])
def test_every_draw_of_the_method_names_its_generator(module: str, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, where = node.func.attr, f"{module}:{node.lineno}"
            if name in RANDOM | RANDOM_IN_PLACE:
                assert any(keyword.arg == "generator" for keyword in node.keywords), where
            seeded_generator = name == "manual_seed" and isinstance(node.func.value, ast.Call)
            assert name not in HIDDEN_RANDOM or seeded_generator, where


def module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: not in functions, nor under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from module_level(getattr(node, field, []))


@pytest.mark.parametrize(("module", "path"), CLI, ids=[name for name, _ in CLI])
def test_command_line_imports_nothing_heavy_by_name(module: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [name for node in module_level(tree.body) for name in imported(node, module, path)]
    assert names
    assert not {name.split(".")[0] for name in names} & HEAVY
    own = [name.removeprefix("d3tune.") for name in names if name.startswith("d3tune.")]
    assert all(layer(name) in (0, layer("cli")) for name in own)


def loaded(statement: str, names: set[str]) -> list[str]:
    code = f"import sys; {statement}; print(*sorted({names!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_command_line_loads_nothing_heavy() -> None:
    assert loaded("import d3tune.cli", HEAVY) == []


@pytest.mark.parametrize(
    "module", ["d3tune.config", "d3tune.data.tensors", "d3tune.method.training", "d3tune.method.closed_form"]
)
def test_lower_layers_load_no_search_tool(module: str) -> None:
    assert loaded(f"import {module}", SEARCH_TOOLS | {"pandas"}) == []


def test_the_leaderboard_loads_nothing_heavy() -> None:
    heavy = HEAVY | SEARCH_TOOLS | {"torch", "pandas"}
    imports = "from d3tune.results.board import FORMS; from d3tune.results.leaderboard import leaderboard_rows"
    assert loaded(f"{imports}; [form(leaderboard_rows(), 'all') for form in FORMS.values()]", heavy) == []
