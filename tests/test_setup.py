"""The files that set the project up agree, and hold versions only."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)


def name_of(requirement):
    return re.split(r"[<>=\[; ]", requirement)[0].lower().replace("_", "-")


def test_the_conda_environment_has_the_same_packages_as_the_project():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in dependencies if isinstance(d, dict))
    assert [p for p in pip if not p.startswith("-e")] == PROJECT["dependencies"]
    assert f"python{PROJECT['requires-python']}" in dependencies


def test_the_lock_pins_every_direct_dependency_within_its_range():
    extras = [r for wanted in PROJECT["optional-dependencies"].values() for r in wanted]
    wanted = [r for r in PROJECT["dependencies"] + extras if not r.startswith("gcl-toolkit[")]
    pinned = {name.lower().replace("_", "-"): version for name, version in LOCK.items()}
    for requirement in wanted:
        least = re.split("[>=]=", requirement)[1]
        version = pinned[name_of(requirement)]
        assert numbers(version) >= numbers(least), requirement


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def test_no_file_names_an_address_of_a_package_registry():
    for name in ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|index-url|find-links", text), name
    assert all(re.fullmatch(r"[\w.+!-]+", version) for version in LOCK.values())


@pytest.mark.parametrize(("has_uv", "installer"), [(True, "uv pip install"), (False, "python -m pip install")])
def test_make_announces_the_download_and_installs_with_uv_if_it_is_there(tmp_path, has_uv, installer):
    for tool in ("make", "sh", "python3", *(["uv"] * has_uv)):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/bin/true")
    for file in ("Makefile", "pyproject.toml", "setup.py", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", "setup", "SHELL=/bin/sh"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < done.stdout.index(" GB, ") < done.stdout.index(installer) < done.stdout.index("-c requirements.lock")


def test_make_has_the_documented_targets():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"setup", "demo", "test", "app", "notebooks", "bench"} <= set(targets)
    readme = (ROOT / "README.md").read_text()
    assert all(f"make {target}" in readme for target in ("demo", "test"))
