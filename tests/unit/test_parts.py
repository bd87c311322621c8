"""The tables of parts: names before imports, what may be added, what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_ms
from ddpm_ms import parts
from ddpm_ms.config import SamplingConfig, choices
from ddpm_ms.errors import InputError
from ddpm_ms.parts import Registry, options_of

TABLES = [table for table in vars(parts).values() if isinstance(table, Registry)]


@pytest.fixture
def table(monkeypatch):
    """A table of two parts of this package, and entry points that one can set."""
    found = {}
    monkeypatch.setattr(parts, "_entry_points", lambda group: found)
    table = Registry("sampler", {"ddim": parts.SAMPLERS.own["ddim"], "heun": parts.SAMPLERS.own["heun"]}, "a.group")
    table.points = found
    return table


class Point:
    """An entry point that leads to a part, or to an error."""

    value = "some.module:part"

    def __init__(self, part):
        self.part = part

    def load(self):
        if isinstance(self.part, Exception):
            raise self.part
        return self.part


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_every_name_of_the_package_leads_to_a_part(table):
    assert all(callable(table[name]) for name in table.own)


def test_names_are_known_without_importing_anything():
    code = ("import sys\nfrom ddpm_ms.config import SamplingConfig, choices\n"
            "print(choices(SamplingConfig.model_fields['sampler'])[:2], "
            "'ddpm_ms.diffusion' in sys.modules, 'mindspore' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "('ddpm', 'ddim') False False", done.stderr


def test_a_part_that_is_registered_is_found_and_named_in_what_is_allowed(table):
    table.register("mine", len)
    assert table["mine"] is len and list(table) == ["ddim", "heun", "mine"] and not table.is_own("mine")
    with pytest.raises(InputError, match=r"sampler is 'mien', allowed: ddim, heun, mine, did you mean 'mine'\?"):
        table.check("sampler", "mien")


@pytest.mark.parametrize(("name", "part", "message"), [
    ("ddim", len, "the name of a sampler is 'ddim', allowed: one that is not taken, as are ddim, heun"), ("", len, "letters"),
    ("package.module:part", len, "allowed: letters, digits and _"), ("a b", len, "allowed: letters"),
    (3, len, "allowed: letters"), ("mine", "package.module:part", "mine is 'package.module:part', allowed: a function"),
])
def test_what_is_no_part_or_has_no_name_of_its_own_is_refused(table, name, part, message):
    with pytest.raises(InputError, match=message):
        table.register(name, part)


def test_an_installed_part_is_imported_when_it_is_asked_for(table):
    table.points.update(mine=Point(len), broken=Point(OSError("no such library")), ddim=Point(len))
    assert "mine" in table and list(table) == ["ddim", "heun", "mine", "broken"] and table["mine"] is len
    assert table["ddim"] is not len  # a package cannot put its own in the place of one of ours
    with pytest.raises(InputError, match=r"sampler broken cannot be imported from some\.module:part: OSError"):
        table["broken"]
    with pytest.raises(InputError, match="allowed: one that is not taken"):
        table.register("mine", max)


@pytest.mark.parametrize("value", [["ddim"], None, 3, {}])
def test_what_is_no_text_is_no_name(table, value):
    assert value not in table
    with pytest.raises(InputError, match=r"sampling.sampler is .*, allowed: ddpm, ddim, "):
        SamplingConfig(sampler=value)


def test_a_network_names_its_section_and_the_section_names_the_network():
    with pytest.raises(InputError, match=r"network mine has the config_class None, allowed: .* name: Literal\['mine'\] = 'mine'"):
        ddpm_ms.register_network("mine", dict)
    with pytest.raises(InputError, match="network mine has the config_class UnetConfig"):
        ddpm_ms.register_network("mine", ddpm_ms.Unet)


def test_the_json_schema_of_a_section_names_the_parts():
    assert SamplingConfig.model_json_schema()["properties"]["sampler"]["enum"] == list(parts.SAMPLERS)
    assert choices(SamplingConfig.model_fields["sampler"]) == tuple(parts.SAMPLERS)


def test_a_sampler_says_which_options_it_takes():
    assert {name: options_of(parts.SAMPLERS[name]) for name in parts.SAMPLERS.own} == {
        "ddpm": {"variance"}, "ddim": {"eta"}, "heun": set(), "dpmpp_2m": set(), "dpmpp_2m_sde": set(), "unipc": set()}
