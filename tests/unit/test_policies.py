"""What the repository promises of itself; layers and single importers are kept by import-linter (pyproject.toml)."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cslm import config
from cslm.apps.job import JobConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "cslm"
MODULES = sorted(PACKAGE.rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*/*.yaml"))

# Whoever may open files: the door itself.
FILE_OPENERS = {PACKAGE / "storage.py"}
FILE_CALLS = {"read_text", "read_bytes", "write_text", "write_bytes"}
STORAGE_NAMES = {"storage"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked_text() -> Iterator[tuple[str, str]]:
    """Every file of the repository that is text; none when this is no git checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            try:
                yield name, (ROOT / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def file_accesses(tree: ast.AST) -> Iterator[str]:
    """Calls that open files by other means than `cslm.storage`, as `line: call`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = node.func
        if isinstance(call, ast.Name) and call.id == "open":
            yield f"{node.lineno}: open()"
        if isinstance(call, ast.Attribute):
            owner = call.value.id if isinstance(call.value, ast.Name) else ""
            if call.attr in FILE_CALLS and owner not in STORAGE_NAMES:
                yield f"{node.lineno}: .{call.attr}()"
            if (owner, call.attr) in {("io", "open"), ("os", "open"), ("codecs", "open"), ("gzip", "open")}:
                yield f"{node.lineno}: {owner}.open()"
            if call.attr == "open" and isinstance(call.value, ast.Call) and ast.unparse(call.value.func) == "Path":
                yield f"{node.lineno}: Path().open()"


@pytest.mark.parametrize("module", [module for module in MODULES if module not in FILE_OPENERS], ids=name_of)
def test_files_are_opened_by_storage_only(module: Path) -> None:
    assert list(file_accesses(ast.parse(module.read_text(encoding="utf-8")))) == []


def test_the_check_of_file_accesses_finds_them() -> None:
    source = "open('x')\nPath('x').read_text()\nPath('x').open()\nio.open('x')\nstorage.read_text('x')\nRun.open(1)\n"
    assert [place.split(":")[0] for place in file_accesses(ast.parse(source))] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_opens_by_saying_what_it_owns(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert [name_of(path) for path in MODULES if path.stem in vague] == []


def test_the_source_root_is_no_package() -> None:
    # A package named `platform` would stand in for the standard library's.
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_a_job_is_executable_and_names_python_without_its_own_folder(job: Path) -> None:
    assert os.access(job, os.X_OK)
    assert job.read_text(encoding="utf-8").splitlines()[0] == "#!/usr/bin/env -S python -P"


@pytest.mark.parametrize("job", JOBS, ids=name_of)
@pytest.mark.parametrize("form", ["python jobs/{}", "python ./jobs/{}", "./jobs/{}", "cd jobs && ./{}"])
def test_a_job_takes_its_own_folder_off_the_path_first(job: Path, form: str, tmp_path: Path) -> None:
    """The launcher up to its first import of the package, beside a package that tells what it found on the path."""
    jobs, package = tmp_path / "jobs", tmp_path / "platform" / "cslm" / "apps"
    jobs.mkdir()
    package.mkdir(parents=True)
    launcher = jobs / job.name
    launcher.write_bytes(job.read_bytes())
    launcher.chmod(0o755)
    # Had the launcher's folder stayed on the path, this would be found in place of the standard library's.
    (jobs / "tokenize.py").write_bytes((jobs / "tokenize.py").read_bytes() if job.name == "tokenize.py" else b"1 / 0\n")
    (package / f"{job.stem}.py").write_text("import tokenize\ndef main(argv=None):\n    print(tokenize.__file__)\n")
    done = subprocess.run(
        form.format(job.name),
        shell=True,
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == Path(os.__file__).parent


@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_a_job_is_an_app_with_a_config_and_a_main(job: Path) -> None:
    app = importlib.import_module(f"cslm.apps.{job.stem}")
    assert issubclass(app.Config, JobConfig)
    assert callable(app.main)


@pytest.mark.parametrize("file", CONFIGS, ids=name_of)
def test_every_shipped_config_loads(file: Path) -> None:
    app = importlib.import_module(f"cslm.apps.{file.parent.name}")
    config.parse(app.Config, ["--config", str(file)], prog=file.parent.name, description="")


@pytest.mark.parametrize("job", [*JOBS, PACKAGE / "apps" / "demo_corpus.py"], ids=name_of)
def test_every_setting_says_what_it_means_and_names_its_unit(job: Path) -> None:
    app = importlib.import_module(f"cslm.apps.{job.stem}")
    units = {"_s": "s", "_ms": "ms", "_hz": "Hz", "characters_per_s": "characters/s"}
    for path, field, inner in config.fields_of(app.Config):
        assert field.description, path
        for suffix, unit in reversed(units.items()):  # the longest first
            if inner is None and path.endswith(suffix):
                extra = field.json_schema_extra
                assert isinstance(extra, dict), path
                assert extra["unit"] == unit, path
                break


def test_the_lock_holds_names_and_versions_only() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.+]+", line)] == []


def test_the_lock_holds_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["demo"], *extras["dev"], *extras["s3"]]
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()}
    names = {re.split(r"[\[<>=!~; ]", one)[0].lower().replace("_", "-") for one in wanted}
    assert names - locked == set()


def test_no_file_names_a_package_index_or_a_place_of_one_machine() -> None:
    index = re.compile(
        r"(index-url|extra-index|find-links|trusted-host)\s*[= ]\s*\S+|https?://\S*/simple\b", re.IGNORECASE
    )
    machine = re.compile(r"(?<![\w.{}])/(home|Users)/[a-z]\w*/|/work/(main|shared)\b|/root/")
    mine = name_of(Path(__file__))
    found = [
        f"{name}: {match.group(0)}"
        for name, text in tracked_text()
        if name != mine
        for match in (*index.finditer(text), *machine.finditer(text))
    ]
    assert found == []
