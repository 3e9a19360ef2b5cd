"""The rules of the package, read from its syntax trees: who may know what, how big a file is."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nano4m.media import MEDIA
from nano4m.modalities import MODALITIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "nano4m"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = {str(path.relative_to(PACKAGE)): path for path in SOURCES}

ONLY_MODALITIES = set(MODALITIES) - set(MEDIA)
SPELLINGS = set(MODALITIES) | set(MEDIA)
REGISTRY = "modalities.py"
PRESETS = "config/presets.py"
# Media to clips: "depth", "normals", "sound" and "caption" are also columns of files and tables.
COLUMNS = re.compile(r"data/.*")

COMPARES = {"startswith", "endswith", "find", "index", "count", "__eq__", "__contains__"}

LAYERS = (
    {"errors", "modalities", "storage", "failures", "standard_streams"},
    {"media", "config"},
    {"tokens"},
    {"model", "compute"},
    {"generation", "progress"},
    {"masking", "stage", "data"},
    {"tokenizers", "checkpoints"},
    {"training", "evaluate"},
    {"report"},
    {"pipeline", "inference"},
    {"tokenizer_report"},
    {"cli"},
    {"__main__"},
)
"""Rooms and loose modules, lowest first: each imports what is below it, or of its own level only
where IN_A_LEVEL says so."""

IN_A_LEVEL = {
    ("modalities", "errors"),
    ("storage", "errors"),
    ("failures", "errors"),
    ("standard_streams", "errors"),
}
MEDIA_TO_IDS = {"data", "tokenizers", "report", "inference", "tokenizer_report"}
IDS_TO_IDS = {"tokens", "model", "generation", "masking", "training"}
MOST_LINES = 350


# -- modality names ----------------------------------------------------------------------------


def _spelled(node: ast.AST) -> set[str]:
    """Return the names that stand in an expression as literals, in displays and calls too."""
    strings = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {s for s in strings if isinstance(s, str) and s in SPELLINGS}


def _named_sets(tree: ast.Module) -> set[str]:
    """Return the module's variables that are nothing but names: ``GRIDS = ("rgb", "depth")``."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value:
            targets, value = [node.target], node.value
        else:
            continue
        if isinstance(value, ast.Call) and value.args:
            value = value.args[0]
        if isinstance(value, ast.Tuple | ast.List | ast.Set) and value.elts:
            strings = [e.value if isinstance(e, ast.Constant) else None for e in value.elts]
            if set(strings) <= SPELLINGS:
                found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


def name_violations(path: Path, relative: str) -> list[str]:
    """Return the places where a module decides something by a modality's name.

    Some names of modalities are spelled like kinds of media or columns ("depth", "sound"), others
    are not ("rgb"). So there are two rules:

    * A name that is nothing else may not stand in the code at all, not even as a key; presets.py
      alone may use it, as a key of a dictionary.
    * A shared spelling may be a key of a dictionary (a dispatch table by kind of media: an entry a
      kind, no branch), but nothing may be compared with it: no ``==``, ``!=``, ``in``, ``is`` with
      the literal anywhere in the comparison, no ``case``, no ``startswith`` and the like, no
      constant that lists names only (a comparison waiting to happen), and no subscript, ``get`` or
      ``pop`` with the literal, which is how a dictionary is asked for one certain modality. The
      last one is allowed where media are still columns of a table, before there are tokens.
    """
    tree = ast.parse(path.read_text())
    found = []

    def report(node: ast.AST, what: str) -> None:
        found.append(f"{relative}:{getattr(node, 'lineno', 0)}: {what}")

    keys = {id(k) for n in ast.walk(tree) if isinstance(n, ast.Dict) for k in n.keys if k}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ONLY_MODALITIES:
            if relative != PRESETS or id(node) not in keys:
                report(node, f"the modality {node.value!r}")
        elif isinstance(node, ast.Compare):
            spelled = set().union(*(_spelled(n) for n in (node.left, *node.comparators)))
            if spelled:
                report(node, f"a comparison with {sorted(spelled)}")
        elif isinstance(node, ast.match_case) and _spelled(node.pattern):
            report(node.pattern, f"a case of {sorted(_spelled(node.pattern))}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            spelled = _spelled(node.args[0])
            asks = {"get", "pop", "setdefault"} if not COLUMNS.fullmatch(relative) else set()
            if spelled and node.func.attr in COMPARES | asks:
                report(node, f"{node.func.attr} of {sorted(spelled)}")
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            key = node.slice.value
            if key in SPELLINGS and not COLUMNS.fullmatch(relative):
                report(node, f"a subscript with {key!r}")
    for name in sorted(_named_sets(tree)):
        report(tree, f"{name} lists names only")
    return found


def test_only_the_registry_decides_by_a_modality_name():
    checked = {name: path for name, path in NAMES.items() if name != REGISTRY}
    found = [v for name, path in checked.items() for v in name_violations(path, name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code, what",
    [
        ('def f(name): return name == "rgb"', "comparison with ['rgb']"),
        ('def f(m): return m.media != "sound"', "comparison with ['sound']"),
        ('def f(m): return m.name in ("depth", "normals")', "comparison with ['depth', 'normals']"),
        ('def f(m): return "caption" in m.name', "comparison with ['caption']"),
        ('def f(m): return m.name in {"sound": 1}', "comparison with ['sound']"),
        ('def f(m): return m.name.startswith("dep" "th")', "startswith of ['depth']"),
        ('def f(m):\n match m.name:\n  case "sound" | "caption": return 1', "case of"),
        ('def f(table): return table["rgb"]', "the modality 'rgb'"),
        ('def f(table): return table["sound"]', "a subscript with 'sound'"),
        ('def f(table): return table.get("caption")', "get of ['caption']"),
        ('SHOWN = {"rgb": 1, "sound": 2}', "the modality 'rgb'"),
        ('GRIDS = ("depth", "normals")', "GRIDS lists names only"),
        ('GRIDS: object = frozenset({"depth"})', "GRIDS lists names only"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, code, what):
    planted = tmp_path / "planted.py"
    planted.write_text(code)
    found = name_violations(planted, "planted.py")
    assert any(what in line for line in found), found


@pytest.mark.parametrize(
    "code, relative",
    [
        ('SHOWN = {"picture": 1, "depth": 2, "caption": 3}', "report/page.py"),
        ('PRESET = {"rgb": 1, "sound": 2}', PRESETS),
        ('def f(row): return row["caption"]', "data/sources/folder.py"),
        ('def f(m): return m.layout == "text"', "loss.py"),
    ],
)
def test_what_is_allowed_passes(tmp_path, code, relative):
    fine = tmp_path / "fine.py"
    fine.write_text(code)
    assert not name_violations(fine, relative)


# -- imports -----------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """Return the modules of nano4m that a file imports, inside functions too: "model.fourm"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module or ""}
    return {m.removeprefix("nano4m.") for m in found if m.startswith("nano4m.")}


def _unit(name: str) -> str:
    """Return what a file or module belongs to: "model/fourm.py" and "model.fourm" to "model"."""
    return re.split(r"[./]", name.removesuffix(".py"))[0]


def import_violations(files: dict[str, Path]) -> list[str]:
    """Return the imports against the direction of the package."""
    level = {unit: i for i, units in enumerate(LAYERS) for unit in units}
    found = []
    for relative, path in files.items():
        unit = _unit(relative)
        if unit == "__init__":
            continue
        for other in sorted({_unit(name) for name in imports(path)} - {unit, "__version__"}):
            below = level[other] < level[unit] or (unit, other) in IN_A_LEVEL
            if not below or (unit in IDS_TO_IDS and other in MEDIA_TO_IDS):
                found.append(f"{relative} imports {other}")
    return found


def test_imports_go_one_way():
    assert not import_violations(NAMES), "\n".join(import_violations(NAMES))
    known = set().union(*LAYERS)
    assert known <= {_unit(n) for n in NAMES} - {"__init__"} <= known


def test_no_modules_import_each_other():
    """Circles of modules, through functions too."""
    modules = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path
        for name, path in NAMES.items()
    }
    reached = {m: {n for n in imports(p) if n in modules} - {m} for m, p in modules.items()}
    while True:
        leaves = {m for m, others in reached.items() if not others}
        if not leaves:
            break
        reached = {m: others - leaves for m, others in reached.items() if m not in leaves}
    assert not reached, reached


@pytest.mark.parametrize(
    "relative, code",
    [
        ("masking/audio_span.py", "from nano4m.data.clip_table import open_clips"),
        ("training/trainer.py", "def f():\n    from nano4m.tokenizers import load_tokenizer"),
        ("model/fourm.py", "import nano4m.training.loss"),
        ("evaluate/run.py", "from nano4m.report.page import write_report"),
        ("evaluate/run.py", "from nano4m import report"),
        ("generation/sampler.py", "from nano4m.inference.outputs import decode"),
        ("generation/guidance.py", "from nano4m.tokenizers.base import Tokenizer"),
        ("data/cut.py", "from nano4m.stage import writable"),
        ("modalities.py", "from nano4m.config.run import Config"),
    ],
)
def test_a_planted_import_is_caught(tmp_path, relative, code):
    planted = tmp_path / "planted.py"
    planted.write_text(code)
    assert import_violations({relative: planted})


def test_the_registry_needs_the_standard_library_only():
    tree = ast.parse((PACKAGE / REGISTRY).read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert _unit(name) in sys.stdlib_module_names or name == "nano4m.errors", name


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["run"], *([c, "--help"] for c in ("run", "generate", "check-data")), ["rum"]],
)
def test_help_loads_no_torch(arguments):
    code = (
        "import sys\nfrom nano4m.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", NAMES)
def test_a_file_is_small_and_plain(relative):
    path = NAMES[relative]
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= MOST_LINES, f"{relative} has {lines} lines, at most {MOST_LINES}"
    odd = [f"{relative}:{i}" for i, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    assert not odd, f"not ASCII: {odd}"
    assert not re.search(r"(^|_)(utils?|helpers?|misc|common|new|final|v\d)$", path.stem), relative
    machine = re.findall(r"[\"'\s](/(?:home|root|work|tmp|mnt|data|Users)/\S*)", text)
    assert not machine, f"{relative}: paths of a machine {machine}"


@pytest.mark.parametrize("relative", NAMES)
def test_only_the_command_line_prints(relative):
    if relative in ("cli.py", "__main__.py"):
        return
    for node in ast.walk(ast.parse(NAMES[relative].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", (
                f"{relative}:{node.lineno}: use nano4m.progress.log_info"
            )


def _undocumented(body: list[ast.stmt], prefix: str) -> list[str]:
    found = []
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            found.append(f"{prefix}{node.name}")
        if isinstance(node, ast.ClassDef):
            found += _undocumented(node.body, f"{prefix}{node.name}.")
    return found


@pytest.mark.parametrize("relative", NAMES)
def test_what_is_public_has_a_docstring(relative):
    tree = ast.parse(NAMES[relative].read_text())
    assert ast.get_docstring(tree), f"{relative} has no docstring"
    assert not _undocumented(tree.body, f"{relative}: ")


def test_the_checks_see_the_package():
    assert len(SOURCES) > 40 and REGISTRY in NAMES and PRESETS in NAMES
    assert "rgb" in ONLY_MODALITIES and "sound" not in ONLY_MODALITIES
    assert _undocumented(ast.parse("def f(): ...").body, "") == ["f"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("room", ["tests", "benchmarks"])
def test_files_beside_the_package_are_small_too(room):
    lines = {
        str(p.relative_to(ROOT)): p.read_text().count("\n") for p in ROOT.glob(room + "/**/*.py")
    }
    assert lines, f"no file in {room}"
    large = {name: n for name, n in lines.items() if n > MOST_LINES}
    assert not large, f"at most {MOST_LINES} lines: {large}"


def test_no_two_test_files_have_one_name():
    """Without packages, pytest imports test files by their name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})
