"""What the documents state as measured is what the code gives."""

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ddpm_ms import cli as program
from ddpm_ms.cli.options import parsed
from ddpm_ms.config import load_config, recipes
from ddpm_ms.config.shipped import located
from ddpm_ms.evaluation.exact import drift
from ddpm_ms.models import create_model, num_parameters
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
    pages = {path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md"}
    assert links("docs/index.md") == {"../README.md", "../CONTRIBUTING.md", *pages}


def commands(document):
    """Every `ddpm-ms ...` line of its code blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ddpm-ms ")]


DOCUMENTS = ["README.md", "README_CN.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if commands(name)])
def test_every_command_in_the_documents_is_one(document):
    for line in commands(document):
        arguments = parsed(program.parser(), shlex.split(line, comments=True)[1:])
        if "command" in arguments:  # what `launch` runs
            parsed(program.parser(), arguments.command)


def links(document):
    """What it links to or shows, inside the repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"\[[^\]]*\]\(([^)]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.M)
    return {name.split("#")[0] for name in found if "://" not in name and not name.startswith("#")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_picture_and_file_that_a_document_links_to_is_there(document):
    for name in links(document):
        assert (ROOT / document).parent.joinpath(name).exists(), name


TWINS = {"README.md": "README_CN.md", "docs/tutorial.md": "docs/tutorial_cn.md"}


@pytest.mark.parametrize("name", TWINS)
def test_both_languages_say_the_same(name):
    english, chinese = ((ROOT / page).read_text(encoding="utf-8") for page in (name, TWINS[name]))

    def shared(document):
        """Where it leads to, but for each page's link to its other language."""
        names = {link.replace("_cn.md", ".md").replace("_CN.md", ".md") for link in links(document)}
        return names - {"README.md", "../README.md", "tutorial.md"}

    assert shared(name) == shared(TWINS[name])
    for shape in (r"^(#+) ", r"^\| (`\w+`) ", r"^```(\w*)$", r"(?<=\n\n)    (\S.*)\n\n"):  # headings, rows, blocks, formulas
        assert re.findall(shape, english, re.M) == re.findall(shape, chinese, re.M)
    assert code(english) == code(chinese)


def code(text):
    """Its Python blocks, without comments and docstrings."""
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    return [re.sub(r'\s*(#.*|"""[^"]*""")$', "", block, flags=re.M) for block in blocks]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_line_of_a_guide_fits_a_screen_unless_it_is_a_row_of_a_table(document):
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        assert len(line) <= 130 or line.startswith("|"), line


@pytest.fixture(scope="module")
def generator():
    return runpy.run_path(str(ROOT / "scripts" / "make_reference.py"))


def test_the_reference_is_what_the_sections_and_the_parsers_say(generator):
    assert generator["reference"]() == generator["PAGE"].read_text(encoding="utf-8"), "run scripts/make_reference.py"


def test_the_schema_for_editors_is_what_the_sections_say_and_has_the_keys_of_every_recipe(generator):
    schema = json.loads(generator["SCHEMA"].read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(generator["schema"]())), "run scripts/make_reference.py"
    sections = schema["properties"]
    for path in ROOT.glob("configs/**/*.yaml"):
        for name, values in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            kinds = sections[name].get("anyOf", [sections[name]])
            assert name == "base" or any(values.keys() <= kind["properties"].keys() for kind in kinds), (path, name)


def test_the_faces_of_celeba_are_cut_out_as_the_guide_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("celeba/img_align_celeba").mkdir(parents=True)
    Path("celeba/list_eval_partition.txt").write_text("a.jpg 0\nb.jpg 1\n")
    pixels = np.random.default_rng(0).integers(0, 255, (218, 178, 3), np.uint8)
    Image.fromarray(pixels).save("celeba/img_align_celeba/a.jpg", format="PNG")  # without loss
    code, = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.M | re.S)
    exec(code, {})
    assert [path.name for path in Path("celeba_faces").iterdir()] == ["a.png"]
    # 64 pixels on each side of column 89 and row 121.
    assert (np.asarray(Image.open("celeba_faces/a.png")) == pixels[121 - 64:121 + 64, 89 - 64:89 + 64]).all()


def test_the_networks_of_published_weights_have_the_size_that_is_stated(tmp_path, monkeypatch, without_values):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for name, recipe in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text, re.M | re.S):
        Path(name).write_text(recipe)
    sizes, rows = {}, re.findall(r"\| `([^`|]+)` \| ([\d,]+) \|", text)
    assert len(rows) > 15
    for words, stated in rows:
        model = load_config(words.split()[0], words.split()[1:]).model
        if repr(model) not in sizes:
            no_class = 4 * model.dim if model.num_classes else 0  # a row of ours alone
            sizes[repr(model)] = num_parameters(create_model(model, 3)) - no_class
        assert f"{sizes[repr(model)]:,}" == stated, words
    lines = [shlex.split(line) for line in commands("docs/weights.md") if " convert " in line and " --config " in line]
    for words in lines:  # whatever weights cannot say is said by the recipe
        tree = recipes._read_tree(located(Path(words[words.index("--config") + 1]), words[words.index("--config") + 1]))
        stated = {f"{section}.{key}" for section, values in tree.items() if isinstance(values, dict) for key in values}
        assert stated >= {"diffusion.timesteps", "diffusion.objective", "diffusion.beta_schedule", "sampling.clip_x_start",
                          "data.image_size"}, words
        assert "diffusion.variance" in stated or tree["model"]["learned_variance"], words
        assert ("model.num_head_channels" in stated) == ("--attention-order" in words), words
    assert len(lines) > 12


# The tutorial's numbers, and those that make it quick.
QUICK = {"T = 200": "T = 20", "dim=32": "dim=8", "train_batch_size=64": "train_batch_size=4",
         "train_num_steps=300": "train_num_steps=2", "steps=50": "steps=5"}


def test_the_tutorial_runs_from_top_to_bottom_and_saves_the_pictures_that_it_shows(tmp_path, without_graphs):
    tutorial = runpy.run_path(str(ROOT / "scripts" / "make_tutorial.py"))
    blocks = "\0".join(tutorial["blocks"](ROOT / "docs" / "tutorial.md"))
    for shown, quick in QUICK.items():
        assert shown in blocks
        blocks = blocks.replace(shown, quick)
    pictures = {path.name: path for path in tutorial["run"](blocks.split("\0"), tmp_path)}
    shown = {name for name in links("docs/tutorial.md") if name.startswith("images/")}
    assert shown == {f"images/tutorial/{name}" for name in pictures}
    for name, path in pictures.items():
        committed = ROOT / "docs" / "images" / "tutorial" / name
        assert committed.stat().st_size < 60_000
        assert Image.open(committed).size == Image.open(path).size, f"{name} is another picture: run scripts/make_tutorial.py"
