"""What the documents state as measured is what the code gives."""

import re
import shlex
from pathlib import Path

import pytest

from ddpm_ms import cli as program
from ddpm_ms.evaluation.exact import drift
from ddpm_ms.parts import SAMPLERS

ROOT = Path(__file__).parents[2]


def rows(document):
    """Sampler to its cells, of the first table that lists them all."""
    found = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / document).read_text(), re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found if name in SAMPLERS}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_tables_of_samplers_are_what_is_measured(name):
    error, evaluations = drift(name, 10, "log_snr")
    cells = rows("docs/sampling.md")[name]
    assert cells[1].startswith(f"{evaluations} /") and cells[-1].startswith(f"{error:.4f} /")


def test_the_guide_to_sampling_has_a_row_for_every_sampler():
    assert list(rows("docs/sampling.md")) == list(SAMPLERS)


@pytest.mark.parametrize("name", ["README.md", "README_CN.md"])
def test_a_readme_is_short_and_its_lines_fit_a_terminal(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130 and max(map(len, lines)) <= 120


def test_the_index_lists_every_page():
    assert links("docs/index.md") == {"../README.md", *(path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md")}


def commands(document):
    """Every `ddpm-ms ...` line of its code blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ddpm-ms ")]


DOCUMENTS = ["README.md", "README_CN.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if commands(name)])
def test_every_command_in_the_documents_is_one(document):
    for line in commands(document):
        arguments = program.parser().parse_args(shlex.split(line, comments=True)[1:])
        if "command" in arguments:  # what `launch` runs
            program.parser().parse_args(arguments.command)


def links(document):
    """What it links to or shows, inside the repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"\[[^\]]*\]\(([^)]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.M)
    return {name.split("#")[0] for name in found if "://" not in name and not name.startswith("#")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_picture_and_file_that_a_document_links_to_is_there(document):
    for name in links(document):
        assert (ROOT / document).parent.joinpath(name).exists(), name


def test_both_languages_say_the_same():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md"))
    assert links("README.md") - {"README_CN.md"} == links("README_CN.md") - {"README.md"}
    for shape in (r"^(#+) ", r"^\| (`\w+`) ", r"^```(\w*)$"):  # headings, rows of tables, blocks
        assert re.findall(shape, english, re.M) == re.findall(shape, chinese, re.M)
