"""Which weights are taken from what denoising-diffusion-pytorch saved, and what is said of those that are none."""

from pathlib import Path

import numpy as np
import pytest

from ddpm_ms.errors import InputError
from ddpm_ms.interop import lucidrains
from ddpm_ms.interop.lucidrains import load_lucidrains
from ddpm_ms.interop.torch_files import read_torch_file

SAVED = Path(__file__).parents[2] / "golden" / "lucidrains_trainer.pt"
FOUND = read_torch_file(SAVED)
UNET = {name[len("model."):]: array for name, array in FOUND["model"].items() if name.startswith("model.")}
AVERAGED = {name[len("ema_model.model."):]: array for name, array in FOUND["ema"].items() if name.startswith("ema_model.model.")}


@pytest.fixture
def load(monkeypatch):
    """`load_lucidrains` of a file that holds a value."""
    def of(value, **keywords):
        monkeypatch.setattr(lucidrains, "read_torch_file", lambda path: value)
        return load_lucidrains("x.pt", **keywords)

    return of


def same(found, state):
    expected = lucidrains.unet_from_lucidrains(state)
    assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_trainers_file_holds_averaged_and_raw_weights():
    same(load_lucidrains(SAVED), AVERAGED)
    same(load_lucidrains(SAVED, ema=False), UNET)
    assert len(UNET) == len(load_lucidrains(SAVED)) and not np.array_equal(UNET["init_conv.weight"], AVERAGED["init_conv.weight"])


def test_the_state_dict_of_each_of_its_modules_is_known(load):
    same(load(UNET), UNET)
    same(load(FOUND["model"], ema=True), UNET)
    same(load(FOUND["ema"]), AVERAGED)
    same(load(FOUND["ema"], ema=False), UNET)


def odd(**changes):
    return {**UNET, **{name.replace("__", "."): np.zeros(1, np.float32) for name in changes}}


@pytest.mark.parametrize(("value", "message"), [
    ([UNET], "there is no state dict of averaged weights"), (None, "no state dict"), ({"step": 3}, "no state dict"),
    ({"model": UNET, "ema": None}, "no state dict of averaged weights"), ({0: UNET["init_conv.bias"]}, "no state dict"),
    ({}, "there are no weights of a Unet"), ({"model": FOUND["model"]}, "no state dict of averaged weights"),
    (odd(mystery=1), "there are 'mystery', allowed: weights of a Unet"), (odd(downs__0__9__g=1), "'downs.0.9.g'"),
    (odd(a=1, b=1, c=1, d=1, e=1), "'a', 'b', 'c' and 2 more"),
    ({**FOUND["model"], "extra": UNET["init_conv.bias"]}, "'extra'"),
    ({**FOUND["model"], "model.extra": UNET["init_conv.bias"]}, "'extra'"),
    ({**FOUND["ema"], "extra": UNET["init_conv.bias"]}, "'extra'"),
    ({**FOUND["ema"], "ema_model.extra": UNET["init_conv.bias"]}, "'extra'"),
    (odd(downs__0__2__to_out__weight=1), r"two arrays for downs\.0\.attn\.to_out\.weight"),
    (odd(downs__0__3__1__weight=1), r"downs\.0\.3\.1\.weight has shape \(1,\), allowed: \(channels out"),
])
def test_what_is_not_its_network_is_named_in_one_line(load, value, message):
    with pytest.raises(InputError, match=message) as error:
        load(value)
    assert str(error.value).startswith("PyTorch file x.pt: ") and str(error.value).isprintable()
