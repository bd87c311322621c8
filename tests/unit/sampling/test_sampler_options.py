"""Which options a sampler takes, and what becomes of those of another one."""

import argparse

import pytest

from ddpm_ms.cli.options import SAMPLING_NAMES, sampling
from ddpm_ms.config import Config, SamplingConfig
from ddpm_ms.errors import InputError
from ddpm_ms.parts import SAMPLERS, options_of


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_options_of_a_sampler_are_settings(name):
    assert options_of(SAMPLERS[name]) <= SAMPLING_NAMES


def test_the_options_that_only_some_samplers_take_are_those_that_a_recipe_checks():
    assert set().union(*(options_of(sampler) for sampler in SAMPLERS.values())) == set(SamplingConfig.of_samplers)


def test_the_command_line_leaves_what_a_recipe_says_for_its_own_sampler():
    recipe = Config(sampling=SamplingConfig(sampler="ddim", eta=1.0, steps=7))

    def options(**given):
        return sampling(argparse.Namespace(**given), recipe)

    assert options() == recipe.sampling
    assert options(sampler="unipc") == SamplingConfig(sampler="unipc", steps=7)
    with pytest.raises(InputError, match=r"eta is 0\.5, which unipc does not take"):
        options(sampler="unipc", eta="0.5")
    assert sampling(argparse.Namespace(), recipe, sampler="ddpm", steps=3) == SamplingConfig(sampler="ddpm", steps=3)
    assert sampling(argparse.Namespace(steps="5"), recipe, steps=3).steps == 5
