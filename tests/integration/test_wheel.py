"""The wheel as it would be installed: built, unpacked elsewhere, and used from there."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "cslm"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation: the build needs what is installed, and nothing from a package index.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_module_schema_and_data_file_of_the_package(wheel: Path) -> None:
    # The schemas lie outside of the package, behind a link.
    code = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.suffix in (".py", ".yaml")}
    schemas = {Path("cslm/schemas") / path.name for path in (ROOT / "schemas").glob("*.yaml")}
    packed = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    assert len(schemas) > 5
    assert (code | schemas) - packed == set()
    stray = {path for path in packed if path.parts[0] != "cslm" and not path.parts[0].endswith(".dist-info")}
    assert stray == set()
    assert not any("__pycache__" in path.parts for path in packed)


def test_an_unpacked_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = "import cslm.contracts as c; print(c.__file__); print(c.load('units').schema.field('units').type)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, kind = done.stdout.splitlines()
    assert Path(place) == tmp_path / "cslm" / "contracts.py"
    assert kind == "list<item: uint16>"
