"""What the README and the docs say is true: their commands parse, their paths exist."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from nano4m.cli import COMMANDS, main
from nano4m.config.generation import GenerateConfig
from nano4m.config.presets import PRESETS
from nano4m.evaluate import results
from nano4m.inference.options import Options
from nano4m.pipeline.check_data.command import DEFAULT_PRESET
from nano4m.pipeline.check_data.options import CheckOptions
from nano4m.pipeline.info import REGISTRIES
from nano4m.tokenizer_report.options import Options as ReportOptions

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def fenced(text: str, command: str) -> list[str]:
    """Return the lines of fenced blocks that call ``command``, continued lines joined."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if re.match(rf"(\$ )?{command}\b", line)]


def inline(text: str, command: str) -> list[str]:
    """Return what is written as ``command ...`` between backticks in running text."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"`({command} [^`]+)`", plain)


def commands(pages: list[Path], command: str) -> dict[str, str]:
    """Return all uses of a command, with the page of each."""
    found = {}
    for page in pages:
        text = page.read_text()
        for line in fenced(text, command) + inline(text, command):
            found[line.split(" #")[0].strip()] = page.name
    return found


GENERATE_OPTIONS = {
    "--in",
    *(
        "--" + field.name.replace("_", "-")
        for field in dataclasses.fields(Options)
        if field.name != "inputs"
    ),
    *("--" + name.replace("_", "-") for name in GenerateConfig.model_fields),
}


CHECK_OPTIONS = {"--" + field.name for field in dataclasses.fields(CheckOptions)}


REPORT_OPTIONS = {"--tokenizer"} | {
    "--" + field.name.replace("_", "-")
    for field in dataclasses.fields(ReportOptions)
    if field.name not in ("clips", "tokenizers")
}


def options_of(preset: str, capsys: pytest.CaptureFixture) -> set[str]:
    """Return the options that the help of a preset lists."""
    with pytest.raises(SystemExit):
        main(["run", preset, "--help"])
    return set(re.findall(r"--[a-z0-9.-]+", capsys.readouterr().out)) | {"-h"}


def problems(line: str, options: dict[str, set[str]]) -> list[str]:
    """Return what is wrong with one ``nano4m ...`` command."""
    _, *words = shlex.split(line)
    if not words or words[0] in ("--help", "-h", "--version"):
        return []
    command, *rest = words
    if command not in COMMANDS:
        return [f"no command {command}"]
    given = [word.split("=")[0] for word in rest if word.startswith("-")]
    if command == "info":
        what = rest[0] if rest else ""
        is_known = what in {*PRESETS, *REGISTRIES} or "/" in what or what.isupper()
        return (
            []
            if is_known and set(given) <= {"--json", "--help", "--device"}
            else [f"info of {rest}"]
        )
    if command == "generate":
        known = GENERATE_OPTIONS | {"-h", "--help"}
        return [f"no option {option}" for option in given if option not in known]
    if command == "tokenizer-report":
        known = REPORT_OPTIONS | {"-h", "--help"}
        return [f"no option {option}" for option in given if option not in known]
    if not rest or rest[0] in ("--help", "-h"):
        return []
    if command == "check-data":
        at = rest.index("--preset") + 1 if "--preset" in rest else 0
        name = rest[at] if at else DEFAULT_PRESET
        known = options.get(name, set()) | CHECK_OPTIONS | {"--preset"}
        return [f"no option {option}" for option in given if option not in known]
    if rest[0] not in PRESETS and not rest[0].isupper():
        return [f"no preset {rest[0]}"]
    known = options.get(rest[0]) or set().union(*options.values())
    return [f"no option {option}" for option in given if option not in known]


@pytest.fixture
def options(capsys) -> dict[str, set[str]]:
    """Options of every preset."""
    return {name: options_of(name, capsys) for name in PRESETS}


def test_every_command_of_the_pages_parses(options):
    found = commands(PAGES, "nano4m")
    wrong = [
        f"{page}: {line}: {problem}"
        for line, page in found.items()
        for problem in problems(line, options)
    ]
    assert not wrong, "\n".join(wrong)
    assert any(line.startswith("nano4m run farm") for line in found), "the README shows no run"


@pytest.mark.parametrize(
    "line, problem",
    [
        ("nano4m walk farm", "no command walk"),
        ("nano4m run barn", "no preset barn"),
        ("nano4m run farm --train.stepz 3", "no option --train.stepz"),
        ("nano4m run digits --tokenizers.depth.grid 4", "no option --tokenizers.depth.grid"),
        ("nano4m info tokenizer", "info of ['tokenizer']"),
        ("nano4m generate --run RUN --stepz 3", "no option --stepz"),
        ("nano4m check-data DIR --deeper", "no option --deeper"),
        ("nano4m check-data DIR --preset farm-large --seed 1 --htm x", "no option --htm"),
    ],
)
def test_a_wrong_command_is_found(options, line, problem):
    assert problems(line, options) == [problem]


def test_every_command_in_a_message_exists():
    found = {
        (path.name, word)
        for path in SOURCES
        for word in re.findall(r"(?<!from )nano4m ([a-z]+(?:-[a-z]+)*)\b", path.read_text())
    }
    assert {word for _, word in found} >= {"clips", "train"}
    wrong = sorted(f"{name}: nano4m {word}" for name, word in found if word not in COMMANDS)
    assert not wrong, wrong


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    found = commands(PAGES, "make")
    assert "make test" in found
    for line, page in found.items():
        words = [w for w in shlex.split(line)[1:] if "=" not in w and not w.startswith("-")]
        assert set(words) <= targets, f"{page}: {line}; the Makefile has {sorted(targets)}"


def test_continuous_integration_runs_the_test_command_of_the_readme():
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    shown = fenced((ROOT / "README.md").read_text(), "make")
    tests = [line.split("#")[0].strip() for line in shown if "tests" in line]
    assert len(tests) == 1 and tests[0] in script


def tree_paths(text: str) -> list[str]:
    """Return the paths of the block that draws the tree: the first words of its lines."""
    block = re.search(r"^```\n(src/nano4m/\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "the README draws no tree"
    paths, folder = [], ""
    for line in block.group(1).splitlines():
        # Names stand before two spaces; what follows is prose.
        names = re.split(r" {3,}", line.strip())[0].split()
        if not line.startswith(" "):
            paths += names
            folder = names[0]
        else:
            paths += [folder + name for name in names]
    return paths


def test_the_tree_of_the_readme_is_there():
    paths = tree_paths((ROOT / "README.md").read_text())
    assert len(paths) > 15
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_link_of_a_page_exists(page):
    text = page.read_text()
    ticked = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]*)`", text)
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    # A name in capitals stands for what the reader chooses.
    ticked = [path for path in ticked if not Path(path).stem.isupper()]
    missing = [path for path in ticked if not (ROOT / path).exists()]
    missing += [path for path in linked if not (page.parent / path).exists()]
    assert not missing, f"{page.name}: {missing}"


def test_the_schema_page_is_made_from_the_schema():
    page = ROOT / "docs" / "SCHEMA.md"
    assert page.read_text() == results.schema_markdown()
