"""Scripts for denoising-diffusion-pytorch, with the import changed, run or are told in one line what to write instead."""

import os
import re
import runpy
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from ddpm_ms import GaussianDiffusion, Trainer, Unet, load_diffusion, runtime
from ddpm_ms.errors import InputError

ROOT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).random((8, 3, 16, 16), np.float32)


def diffusion(**keywords):
    return GaussianDiffusion(Unet(dim=8, dim_mults=(1, 2), flash_attn=True), image_size=16, timesteps=20, **keywords)


def test_its_first_example_trains_and_samples():
    process = diffusion()
    loss = process(Tensor(IMAGES))
    assert loss.shape == () and np.isfinite(float(loss.asnumpy()))
    assert process.sample(batch_size=4).shape == (4, 3, 16, 16)
    assert process.sample(batch_size=1, return_all_timesteps=True).shape == (1, 21, 3, 16, 16)


def test_its_keyword_flash_attn_changes_nothing():
    assert Unet(8, dim_mults=(1, 2), flash_attn=True).config == Unet(8, dim_mults=(1, 2)).config


def test_its_second_example_trains_and_saves(tmp_path):
    trainer = Trainer(diffusion(sampling_timesteps=5), IMAGES, train_batch_size=4, train_lr=8e-5, train_num_steps=2,
                      gradient_accumulate_every=2, ema_decay=0.995, num_samples=0, results_folder=tmp_path)
    trainer.train()
    trainer.save(1)
    assert (tmp_path / "checkpoints" / "step_00000002").is_dir()


@pytest.mark.parametrize(("keyword", "instead"), [
    (dict(amp=True), "precision"), (dict(mixed_precision_type="fp16"), "precision"),
    (dict(split_batches=False), "train_batch_size"), (dict(convert_image_to="RGB"), "channels of the network"),
    (dict(calculate_fid=True), "ddpm-ms evaluate"), (dict(num_fid_samples=50_000), "ddpm-ms evaluate"),
    (dict(inception_block_idx=2048), "ddpm-ms evaluate"), (dict(save_best_and_latest_only=True), "keep_last"),
])
def test_a_keyword_of_its_trainer_that_means_something_else_here_is_told_what_to_write(tmp_path, keyword, instead):
    with pytest.raises(InputError, match=rf"unknown key .training\.{next(iter(keyword))}., allowed: .*{instead}"):
        Trainer(diffusion(), IMAGES, results_folder=tmp_path / "run", **keyword)
    assert not (tmp_path / "run").exists()


def test_loading_a_milestone_is_told_that_training_resumes_by_itself(tmp_path):
    trainer = Trainer(diffusion(), IMAGES, train_batch_size=4, results_folder=tmp_path)
    with pytest.raises(InputError, match=r"Trainer.load\(3\), allowed: nothing, for train\(\) resumes"):
        trainer.load(3)


def test_keywords_of_its_other_networks_are_told_what_to_write():
    with pytest.raises(InputError, match=r"unknown key .model\.cond_drop_prob., allowed: label_dropout"):
        Unet(8, cond_drop_prob=0.5)
    with pytest.raises(InputError, match=r"unknown key .model\.resnet_block_groups., allowed: block: group"):
        Unet(8, resnet_block_groups=8)


# Every keyword of its three classes (2.3.4) with its default.
UNET = dict(dim=8, init_dim=None, out_dim=None, dim_mults=(1, 2), channels=3, self_condition=False, learned_variance=False,
            learned_sinusoidal_cond=False, random_fourier_features=False, learned_sinusoidal_dim=16,
            sinusoidal_pos_emb_theta=10000, dropout=0.0, attn_dim_head=32, attn_heads=4, full_attn=None, flash_attn=False)
DIFFUSION = dict(image_size=16, timesteps=20, sampling_timesteps=None, objective="pred_v", beta_schedule="sigmoid",
                 schedule_fn_kwargs={}, ddim_sampling_eta=0.0, auto_normalize=True, offset_noise_strength=0.0,
                 min_snr_loss_weight=False, min_snr_gamma=5, immiscible=False)
TRAINER = dict(train_batch_size=4, gradient_accumulate_every=1, augment_horizontal_flip=True, train_lr=1e-4, train_num_steps=9,
               ema_update_every=10, ema_decay=0.995, adam_betas=(0.9, 0.99), save_and_sample_every=1000, num_samples=25,
               results_folder="./results", amp=False, split_batches=True, convert_image_to=None, calculate_fid=False,
               max_grad_norm=1.0, save_best_and_latest_only=False)


def test_every_keyword_is_taken_with_the_value_that_means_the_same_here(tmp_path):
    network = Unet(**UNET)
    assert network.config == Unet(8, dim_mults=(1, 2)).config
    process = GaussianDiffusion(network, **DIFFUSION)
    assert process.config == GaussianDiffusion(network, image_size=16, timesteps=20, beta_schedule="sigmoid").config
    trainer = Trainer(process, IMAGES, **{**TRAINER, "results_folder": tmp_path})
    assert (trainer.config.training.precision, trainer.config.training.ema_decay) == ("fp32", 0.995)


def test_the_options_of_its_schedules_are_taken_under_its_name_and_recorded_under_ours():
    process = diffusion(beta_schedule="sigmoid", schedule_fn_kwargs=dict(start=-2, tau=0.7))
    assert process.config == diffusion(beta_schedule="sigmoid", sigmoid_start=-2, sigmoid_tau=0.7).config
    assert (process.config.sigmoid_start, process.config.sigmoid_tau) == (-2, 0.7)
    with pytest.raises(InputError, match="schedule_fn_kwargs has 'tau', allowed with beta_schedule cosine: s"):
        diffusion(schedule_fn_kwargs=dict(tau=0.7))


@pytest.mark.parametrize(("keyword", "instead"), [
    ("t", "strength"), ("cond_scale", "guidance_scale"), ("rescaled_phi", "guidance_rescale"), ("mask", "the method inpaint"),
])
def test_an_argument_of_its_sample_that_has_another_name_here_is_told(keyword, instead):
    with pytest.raises(InputError, match=rf"unknown key .sampling\.{keyword}., allowed: {instead}"):
        diffusion().sample(1, **{keyword: 1})


class Half(nn.Cell):
    """A network that halves its input: no weights, and an answer that is known."""

    channels = 3

    def construct(self, x, t, x_self_cond=None, classes=None, dropout_key=None):
        return x * 0.5


@pytest.fixture
def half(without_graphs):
    return GaussianDiffusion(Half(), image_size=16, timesteps=20, sampling_timesteps=5, objective="pred_noise")


def test_its_methods_for_sampling_are_ours_by_another_name(half):
    shape = (2, 3, 16, 16)
    np.testing.assert_array_equal(half.p_sample_loop(shape, seed=1), half.sample(2, sampler="ddpm", steps=20, seed=1))
    np.testing.assert_array_equal(half.ddim_sample(shape, seed=1), half.sample(2, seed=1))
    assert half.ddim_sample(shape, return_all_timesteps=True).shape == (2, 6, 3, 16, 16) and half.is_ddim_sampling
    with pytest.raises(InputError, match=r"shape is \(2, 16, 16, 3\), allowed: \(B, 3, 16, 16\)"):
        half.p_sample_loop((2, 16, 16, 3))


def test_its_methods_of_the_process_take_arrays(half):
    x_start, noise, t = IMAGES * 2 - 1, np.ones_like(IMAGES), np.arange(8)
    x = half.q_sample(x_start, t, noise)
    np.testing.assert_array_equal(x.asnumpy(), half.q_sample(*map(Tensor, (x_start, t.astype(np.int32), noise))).asnumpy())
    np.testing.assert_allclose(half.predict_start_from_noise(x, t, noise).asnumpy(), x_start, atol=1e-5)
    # The network answers x / 2, where the noise is 1.
    each = half.p_losses(x_start, t, noise, loss_reduction="none").asnumpy()
    np.testing.assert_allclose(each, ((x.asnumpy() / 2 - 1) ** 2).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(float(half.p_losses(x_start, t, noise).asnumpy()), each.mean(), rtol=1e-6)
    np.testing.assert_allclose(float(half(IMAGES, t, noise).asnumpy()), each.mean(), rtol=1e-5)
    assert half.q_sample(x_start, t).shape == x.shape  # with noise of its own


@pytest.mark.parametrize(("images", "message"), [
    (IMAGES.transpose(0, 2, 3, 1), r"img has the shape \(8, 16, 16, 3\), allowed: \(B, 3, 16, 16\)"),
    (IMAGES[0], r"img has the shape \(3, 16, 16\), allowed"), (IMAGES[:0], "img has the shape"),
    ((IMAGES * 255).astype(np.uint8), r"img has the type uint8, allowed: floating point in \[0, 1\]"),
    (Tensor(np.zeros(IMAGES.shape, np.int32)), "img has the type int32, allowed: floating point"),
    (IMAGES * 2 - 1, r"img has values from -.* to .*, allowed: 0 to 1 \(or auto_normalize=False\)"),
])
def test_images_that_are_none_are_refused_in_one_line(half, images, message):
    with pytest.raises(InputError, match=message):
        half(images)


def test_images_may_be_arrays_of_any_floating_point_type(half):
    for images in (IMAGES, IMAGES.astype(np.float64), Tensor(IMAGES.astype(np.float16))):
        assert half(images).dtype == ms.float32


@pytest.mark.parametrize(("name", "instead"), [
    ("p_sample", "sample, whose callback"), ("p_mean_variance", "model_predictions"), ("noise_assignment", "immiscible=True"),
    ("random_times", "timestep_sampling"), ("betas", "schedule.betas"), ("device", "runtime"), ("cuda", "MindSpore chooses"),
    ("parameters", "trainable_params"), ("forward", "diffusion"),
])
def test_a_method_that_is_not_here_says_what_to_write(half, name, instead):
    with pytest.raises(AttributeError, match=rf"GaussianDiffusion has no {name}, allowed: .*{instead}"):
        getattr(half, name)
    assert not hasattr(half, name) and not hasattr(half, "nonsense")


# A network of one's own.


@pytest.mark.parametrize(("construct", "message"), [
    (lambda self, x, t: x,
     r"Mine has construct\(self, x, t\), allowed: construct\(self, x, t, x_self_cond, classes, dropout_key\); it need not use"),
    (lambda self, x: x, r"Mine has construct\(self, x\), allowed"), (None, "the network is a Mine, allowed: a mindspore.nn.Cell"),
])
def test_a_network_with_other_inputs_is_refused_when_the_process_is_made(construct, message):
    mine = type("Mine", (nn.Cell if construct else object,), {"channels": 3, **({"construct": construct} if construct else {})})
    with pytest.raises(InputError, match=message):
        GaussianDiffusion(mine(), image_size=16)


def test_what_a_network_says_of_itself_must_be_numbers():
    network = Half()
    network.dropout = nn.Dropout(p=0.1)
    with pytest.raises(InputError, match=r"Half\.dropout is a Dropout, allowed: a number"):
        GaussianDiffusion(network, image_size=16)
    network = Half()
    network.channels = None
    with pytest.raises(InputError, match=r"Half\.channels is None, allowed: a whole number"):
        GaussianDiffusion(network, image_size=16)


def blocks(document):
    """The document's Python blocks that are ours."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in found if "import torch" not in block and "denoising_diffusion_pytorch" not in block]


def small(code, *changes):
    for shown, quick in changes:
        assert shown in code
        code = code.replace(shown, quick)
    return code


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with eight pictures."""
    (tmp_path / "path" / "to" / "images").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        Image.fromarray((image * 255).astype(np.uint8).transpose(1, 2, 0)).save(tmp_path / f"path/to/images/{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = (("image_size=32", "image_size=8, timesteps=20"), ("dim=64", "dim=8"), ("steps=50", "steps=2"),
       ('results_folder="runs/my_net"', 'results_folder="runs/my_net", train_batch_size=4, train_num_steps=2, num_samples=0'))


def test_the_network_of_the_guide_is_trained_resumed_and_loaded_and_nothing_else_is_left(place):
    code, = blocks("docs/training.md")
    Path("my_net.py").write_text(small(code, *OWN))
    first = runpy.run_path("my_net.py")["images"]
    assert first.shape == (16, 3, 8, 8)
    Path("my_net.py").write_text(small(code, *OWN, ("train_num_steps=2", "train_num_steps=3")))
    found = runpy.run_path("my_net.py")
    assert found["checkpoint"].step == 3
    assert sorted(path.name for path in place.iterdir()) == ["my_net.py", "path", "runs"]
    with pytest.raises(InputError, match=r"model.name is 'custom', .*load_diffusion\(run, model=\.\.\.\)"):
        load_diffusion("runs/my_net")
    with pytest.raises(InputError, match="does not fit the network"):
        load_diffusion("runs/my_net", model=found["MyNet"](16))


def test_a_network_that_was_typed_into_a_session_runs_operator_by_operator_and_says_so(place, caplog):
    code, = blocks("docs/training.md")
    found = {}
    exec(compile(small(code, *OWN), "<stdin>", "exec"), found)
    assert found["images"].shape == (16, 3, 8, 8)
    line, = (record.getMessage() for record in caplog.records if "source" in record.getMessage())
    assert line.startswith("the source of MyNet cannot be read, so it runs operator by operator, slower than in a graph")


class Broken(Half):
    def construct(self, x, t, x_self_cond=None, classes=None, dropout_key=None):
        return self.there_is_no_such_layer(x)


def test_a_network_that_cannot_be_compiled_leaves_nothing_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_OM_PATH", "anywhere")  # so that what is set below is taken back
    monkeypatch.delenv("MS_OM_PATH")
    monkeypatch.setattr("ddpm_ms.runtime.graphs.cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(AttributeError, match="no attribute 'there_is_no_such_layer'"):
        GaussianDiffusion(Broken(), image_size=16, timesteps=20).sample(1, steps=1)
    assert not os.listdir(tmp_path / "here") and runtime.is_compiling()
    assert list((tmp_path / "cache").rglob("analyze_fail.ir"))


# The page about moving over.


PAGE = (ROOT / "docs" / "from_pytorch.md").read_text(encoding="utf-8")
METHODS = ("q_sample", "q_posterior", "predict_start_from_noise", "predict_noise_from_start", "predict_v", "predict_start_from_v",
           "model_predictions", "p_mean_variance", "p_sample", "p_sample_loop", "ddim_sample", "sample", "noise_assignment",
           "p_losses", "random_times", "normalize", "unnormalize", "device", "is_ddim_sampling", "num_timesteps", "loss_weight")
OTHERS = ("diffusion_model", "folder", "mixed_precision_type", "num_fid_samples", "inception_block_idx", "train", "ema.ema_model",
          "resnet_block_groups", "LearnedGaussianDiffusion", "ContinuousTimeGaussianDiffusion", "XMWrapper", "Dataset1D",
          "WeightedObjectiveGaussianDiffusion", "ElucidatedDiffusion", "VParamContinuousTimeGaussianDiffusion", "Unet1D",
          "GaussianDiffusion1D", "Trainer1D", "KarrasUnet", "KarrasUnet1D", "KarrasUnet3D", "InvSqrtDecayLRSched")


@pytest.mark.parametrize("name", [*UNET, "model", *DIFFUSION, *METHODS, *TRAINER, *OTHERS])
def test_the_page_says_what_becomes_of_every_public_name(name):
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
    assert any(f"`{name}`" in row or f": `{name}" in row for row in rows)


def test_the_script_of_the_page_runs(place, without_graphs):
    found = {}
    exec(small(blocks("docs/from_pytorch.md")[0], ("dim=64, dim_mults=(1, 2, 4, 8)", "dim=8, dim_mults=(1,)"),
               ("image_size=128", "image_size=8"), ("timesteps=1000", "timesteps=20"), ("=250", "=2"),
               ('precision="fp16"', "num_samples=0"), ("train_batch_size=32", "train_batch_size=2"), ("700_000", "2")), found)
    assert found["images"].shape == (16, 3, 8, 8) and found["trainer"].step == 2


class Shrinks(nn.Cell):
    """Returns one channel whatever it is given."""

    channels = 3

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        return x[:, :1]


def test_a_network_that_returns_another_shape_is_told_so_and_its_class_alone_is_none():
    images = IMAGES[:2]
    with pytest.raises(InputError, match=r"the network returns the shape \(2, 1, 16, 16\), allowed: \(2, 3, 16, 16\)"):
        GaussianDiffusion(Shrinks(), image_size=16, timesteps=20)(images)
    with pytest.raises(InputError, match=r"allowed: a mindspore\.nn\.Cell"):
        GaussianDiffusion(Shrinks, image_size=16)


def test_the_weights_of_a_checkpoint_are_read_as_the_page_says(tmp_path, monkeypatch, without_graphs):
    golden = np.load(ROOT / "tests" / "golden" / "lucidrains_trainer.npz")
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "tests" / "golden" / "lucidrains_trainer.pt", tmp_path / "results" / "model-10.pt")
    monkeypatch.chdir(tmp_path)
    found = {}
    tiny = "dim=4, dim_mults=(1,), full_attn=(False,), channels=1, attn_dim_head=2, attn_heads=1"
    exec(small(blocks("docs/from_pytorch.md")[1], ("dim=64, dim_mults=(1, 2, 4, 8)", tiny), ("image_size=128", "image_size=8"),
               ("sampling_timesteps=250", "sampling_timesteps=1")), found)
    output = found["model"](Tensor(golden["x"]), Tensor(golden["time"])).asnumpy()
    np.testing.assert_allclose(output, golden["averaged"], rtol=2e-4, atol=2e-5)
