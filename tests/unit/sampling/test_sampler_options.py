"""Which options a sampler takes, and what becomes of those of another one."""

import argparse

import pytest

from ddpm_ms.cli.options import SAMPLING_NAMES, sampling
from ddpm_ms.config import Config, SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.sampling.samplers import SAMPLERS, foreign_options, own_options, sampler_options


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_options_of_a_sampler_are_settings(name):
    assert own_options(name) <= SAMPLING_NAMES
    assert not own_options(name) & foreign_options(name)


def test_a_sampler_is_given_its_own_options_alone():
    assert sampler_options("ddim", SamplingConfig(eta=0.5), variance="fixed_large") == {"eta": 0.5}
    assert sampler_options("ddpm", SamplingConfig(sampler="ddpm"), variance="fixed_large") == {"variance": "fixed_large"}
    assert sampler_options("heun", SamplingConfig(sampler="heun"), variance="fixed_large") == {}
    chosen = SamplingConfig(sampler="ddpm", variance="fixed_small")
    assert sampler_options("ddpm", chosen, variance="fixed_large") == {"variance": "fixed_small"}


def test_an_option_of_another_sampler_is_refused():
    with pytest.raises(InputError, match=r"^eta is 0.5 with sampler unipc, allowed with: ddim$"):
        sampler_options("unipc", SamplingConfig(sampler="unipc", eta=0.5))
    with pytest.raises(InputError, match=r"^variance is fixed_large with sampler ddim, allowed with: ddpm$"):
        sampler_options("ddim", SamplingConfig(variance="fixed_large"))


def test_the_command_line_leaves_what_a_recipe_says_for_its_own_sampler():
    recipe = Config(sampling=SamplingConfig(sampler="ddim", eta=1.0, steps=7))

    def options(**given):
        return sampling(argparse.Namespace(**given), recipe)

    assert options() == recipe.sampling
    assert options(sampler="unipc") == SamplingConfig(sampler="unipc", steps=7)
    assert options(sampler="unipc", eta="0.5").eta == 0.5  # which the sampler will refuse
    assert sampling(argparse.Namespace(), recipe, sampler="ddpm", steps=3) == SamplingConfig(sampler="ddpm", steps=3)
    assert sampling(argparse.Namespace(steps="5"), recipe, steps=3).steps == 5
