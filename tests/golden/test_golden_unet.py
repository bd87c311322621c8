"""Our Unet computes what denoising-diffusion-pytorch's computes, given the same weights."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ddpm_ms import Unet
from ddpm_ms.checkpoints.checkpoint import set_parameters
from ddpm_ms.interop import load_lucidrains, unet_from_lucidrains

HERE = Path(__file__).parent
CASES = {
    "plain": dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2),
    "selfcond": dict(dim=8, init_dim=12, dim_mults=(1, 2), channels=2, attn_dim_head=4, attn_heads=2,
                     self_condition=True, out_dim=3, full_attn=(True, False)),
    "fourier": dict(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=4, attn_heads=2, learned_sinusoidal_cond=True,
                    learned_sinusoidal_dim=6, full_attn=(False, False)),
}


@pytest.mark.parametrize("name", CASES)
def test_unet_equals_denoising_diffusion_pytorch(name):
    golden = np.load(HERE / f"lucidrains_unet_{name}.npz")
    model = Unet(**CASES[name]).set_train(False)
    weights = unet_from_lucidrains({k[7:]: golden[k] for k in golden.files if k.startswith("weight.")})
    missing, unexpected = ms.load_param_into_net(
        model, {k: ms.Parameter(v) for k, v in weights.items()}, strict_load=True)
    assert not missing and not unexpected

    x, time = Tensor(golden["x"]), Tensor(golden["time"])
    np.testing.assert_allclose(model(x, time).asnumpy(), golden["output"], rtol=2e-4, atol=2e-5)
    if "output_self_cond" in golden:
        ours = model(x, time, Tensor(golden["x_self_cond"])).asnumpy()
        np.testing.assert_allclose(ours, golden["output_self_cond"], rtol=2e-4, atol=2e-5)


def test_what_its_trainer_saved_computes_the_same_with_either_weights():
    golden = np.load(HERE / "lucidrains_trainer.npz")
    model = Unet(dim=4, dim_mults=(1,), full_attn=(False,), channels=1, attn_dim_head=2, attn_heads=1).set_train(False)
    for name, ema in {"averaged": True, "raw": False}.items():
        set_parameters(dict(model.parameters_and_names()), load_lucidrains(HERE / "lucidrains_trainer.pt", ema), name)
        output = model(Tensor(golden["x"]), Tensor(golden["time"])).asnumpy()
        np.testing.assert_allclose(output, golden[name], rtol=2e-4, atol=2e-5)
    assert np.abs(golden["averaged"] - golden["raw"]).max() > 1e-3
