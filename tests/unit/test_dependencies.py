"""What has to be installed: everything that is imported is required, what few need is an extra, and the table says what for."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_ms.data.arrays import digits
from ddpm_ms.data.folders import _flower_labels
from ddpm_ms.errors import InputError, needed
from ddpm_ms.evaluation import ClassifierJudge

ROOT = Path(__file__).parents[2]
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}  # where the module has another name
PROJECT = (ROOT / "pyproject.toml").read_text()
NAME = r'"([\w-]+)[<>=]'
CORE = set(re.findall(NAME, re.search(r"^dependencies = \[(.*?)^\]", PROJECT, re.S | re.M)[1]))
EXTRAS = {name: set(re.findall(NAME, text)) for name, text in re.findall(r"^(\w+) = \[(.*?)\]", PROJECT.split(
    "[project.optional-dependencies]")[1].split("[project.scripts]")[0], re.S | re.M)}
STDLIB = getattr(sys, "stdlib_module_names", set())


def imported(tree):
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (PACKAGES.get(name.split(".")[0], name.split(".")[0]) for name in names)


@pytest.mark.skipif(not STDLIB, reason="Python before 3.10 does not list its own modules")
def test_every_library_that_is_imported_is_required_and_every_required_one_imported():
    found = {name for path in (ROOT / "ddpm_ms").rglob("*.py") for name in imported(ast.parse(path.read_text()))}
    outside = {name for name in found if name not in STDLIB | {"ddpm_ms"}}
    # What comes with pydantic and is meant to be imported beside it.
    extras = {name for extra, names in EXTRAS.items() if extra != "dev" for name in names}
    assert outside - {"annotated_types", "pydantic_core"} == CORE | extras


def test_developers_get_every_extra():
    assert EXTRAS["dev"] >= set().union(*EXTRAS.values())


def test_the_table_of_the_documentation_has_every_package():
    table = (ROOT / "docs" / "index.md").read_text().split("## What is installed")[1]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row[1])}
    assert listed == CORE | {name for extra, names in EXTRAS.items() if extra != "dev" for name in names}
    always = {name for row in rows if row[3].strip() == "always" for name in re.findall(r"`([^`]+)`", row[1])}
    assert always == CORE


@pytest.mark.parametrize(("module", "call", "line"), [
    ("sklearn", digits,
     "the digits are scikit-learn's, but scikit-learn is not installed: pip install scikit-learn"),
    ("sklearn.model_selection", lambda: ClassifierJudge(np.zeros((4, 1, 2, 2)), np.array([0, 0, 1, 1])),
     "samples are judged .*, but scikit-learn is not installed: pip install scikit-learn"),
    ("scipy.io", lambda: _flower_labels(Path("imagelabels.mat")),
     "imagelabels.mat is a MATLAB file, but scipy is not installed: pip install scipy"),
])
def test_what_is_missing_is_named_in_one_line(monkeypatch, module, call, line):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"^{line}$"):
        call()


def test_an_import_that_fails_for_another_reason_is_not_called_missing():
    with pytest.raises(ImportError, match="broken"), needed("x", "a test"):
        raise ImportError("broken")


def test_the_page_about_a_run_is_shipped():
    patterns = re.search(r'"ddpm_ms.visual" = \[(.*)\]', PROJECT)[1]
    assert all(f'"*{path.suffix}"' in patterns for path in (ROOT / "ddpm_ms" / "visual").glob("report.*") if path.suffix != ".py")
