"""What is exported, what is refused, and that it is there whole or not at all."""

import functools
import json
import os
import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file, safe_open

from ddpm_ms import load_config, load_diffusion, runtime
from ddpm_ms.checkpoints import Checkpoint
from ddpm_ms.config import Config, override_config
from ddpm_ms.errors import EvaluationError, InputError
from ddpm_ms.export import export_run, graphs
from ddpm_ms.export.diffusers import scheduler_config, unet_config
from ddpm_ms.export.graphs import Denoiser, example, expected
from ddpm_ms.export.lucidrains import process_keywords, unet_keywords
from ddpm_ms.export.trained import Target, Trained
from ddpm_ms.parts import TARGETS

TINY = ["model.dim=8", "model.dim_mults=[1]", "model.attn_heads=1", "model.attn_dim_head=4", "data.image_size=8",
        "data.channels=1", "diffusion.timesteps=20"]
DDPM = ["model.name=ddpm_unet", "model.dim=8", "model.dim_mults=[1,2]", "model.norm_groups=4", "model.num_res_blocks=1",
        "data.image_size=8", "data.channels=1", "diffusion.timesteps=50", "diffusion.beta_schedule=linear"]
GUIDE = Path(__file__).parents[3] / "docs" / "export.md"
NEEDS_EXPORTER = pytest.mark.skipif(not hasattr(ms, "onnx"), reason="MindSpore before 2.10 writes no such ONNX")


@pytest.fixture(scope="module")
def run(saved_run, tmp_path_factory):
    """With everything that a network can be told, in a directory whose name has a space and a letter with dots."""
    return saved_run(tmp_path_factory.mktemp("ä run"), [*TINY, "model.self_condition=true", "model.num_classes=3"])


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def given(overrides):
    return Trained(None, override_config(Config(), overrides), True)


# Weights.


def test_safetensors_has_our_names_and_the_recipe(run, tmp_path):
    output = export_run(run, "safetensors", tmp_path / "deep" / "x.safetensors", ema=False)
    diffusion, checkpoint = load_diffusion(run, ema=False)
    parameters = {name: parameter.asnumpy() for name, parameter in diffusion.model.parameters_and_names()}
    found = load_file(output)
    assert found.keys() == parameters.keys() and all(np.array_equal(found[name], parameters[name]) for name in found)
    with safe_open(output, "np") as file:
        metadata = file.metadata()
    (tmp_path / "recipe.yaml").write_text(metadata["recipe"])
    assert load_config(tmp_path / "recipe.yaml") == checkpoint.config and metadata["weights"] == "raw weights of step 7"
    assert output.stat().st_mode == (tmp_path / "recipe.yaml").stat().st_mode  # not the library's own 0600
    assert left(tmp_path) == ["deep", "recipe.yaml"]


@pytest.mark.parametrize("learned", [True, False])
def test_no_class_is_one_class_more_where_it_was_learned(learned, saved_run, tmp_path, monkeypatch):
    run = saved_run(tmp_path / "run", [*DDPM, "model.num_classes=3"])
    if not learned:
        weights = Trained.weights
        monkeypatch.setattr(Trained, "weights", lambda self: {
            **weights(self), "class_emb.embedding_table": weights(self)["class_emb.embedding_table"] * [[1], [1], [1], [0]]})
    folder = export_run(run, "diffusers", tmp_path / "out")
    table = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["class_embedding.weight"]
    assert len(table) == json.loads((folder / "unet" / "config.json").read_text())["num_class_embeds"] == 3 + learned


@pytest.mark.parametrize(("overrides", "expected"), [
    (["diffusion.beta_schedule=linear", "diffusion.timesteps=500"],
     {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.04}),
    (["diffusion.beta_schedule=quadratic", "diffusion.timesteps=1000"],
     {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02}),
    (["diffusion.beta_schedule=cosine"], {"beta_schedule": "squaredcos_cap_v2"}),
    (["diffusion.objective=pred_x0", "sampling.clip_x_start=false"],
     {"prediction_type": "sample", "clip_sample": False, "thresholding": False}),
    (["diffusion.variance=fixed_large"], {"variance_type": "fixed_large", "timestep_spacing": "leading"}),
    (["diffusion.variance=fixed_large", "sampling.sampler=ddpm", "sampling.variance=fixed_small"],
     {"variance_type": "fixed_small"}),
])
def test_a_schedule_is_named_where_diffusers_has_it(overrides, expected):
    found = scheduler_config(given([*DDPM, *overrides]))
    assert {key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()}.items() \
        <= {key: found[key] for key in expected}.items() and "trained_betas" not in found


@pytest.mark.parametrize("overrides", [
    ["diffusion.beta_schedule=cosine", "diffusion.cosine_s=0.1"], ["diffusion.beta_schedule=sigmoid"],
    ["diffusion.rescale_betas_zero_snr=true", "diffusion.objective=pred_v"],
])
def test_any_other_schedule_is_written_out(overrides):
    trained = given([*DDPM, *overrides])
    found = scheduler_config(trained)
    np.testing.assert_array_equal(found["trained_betas"], trained.schedule.betas)
    assert found["timestep_spacing"] == ("trailing" if "rescale" in overrides[0] else "leading")


HEADS = "model.num_heads is 2 at widths 8, 16, allowed with UNet2DModel of diffusers: 1, or heads of one width"
UNET2D = "which UNet2DModel of diffusers does not know, allowed:"
THEIRS = "which denoising-diffusion-pytorch does not know, allowed:"


@pytest.mark.parametrize(("overrides", "message"), [
    (TINY, f"model.name is 'unet', {UNET2D} ddpm_unet"),
    (["model.name=simple_unet"], f"model.name is 'simple_unet', {UNET2D} ddpm_unet"),
    ([*DDPM, "model.self_condition=true"], f"model.self_condition is True, {UNET2D} False"),
    ([*DDPM, "model.dim_mults=[2,4]"], "model.dim_mults begins with 2, allowed with UNet2DModel of diffusers: 1"),
    ([*DDPM, "model.num_heads=2", "model.attention_levels=true"], HEADS),
    ([*DDPM, "model.learned_variance=true", "diffusion.variance=fixed_large"],
     "the variance is 'fixed_large', which DDPMScheduler, with a network that learns it, does not know, allowed: learned"),
])
def test_what_diffusers_cannot_say_is_named(overrides, message):
    with pytest.raises(InputError, match=message):
        unet_config(given(overrides).config)
        scheduler_config(given(overrides))


@pytest.mark.parametrize(("overrides", "message"), [
    (DDPM, f"model.name is 'ddpm_unet', {THEIRS} unet"),
    ([*TINY, "model.block=group"], f"model.block is 'group', {THEIRS} rms"),
    ([*TINY, "model.num_classes=3"], f"model.num_classes is 3, {THEIRS} null"),
    ([*TINY, "model.time_embedding=learned_fourier"], "model.time_embedding is 'learned_fourier'.*allowed: sinusoidal"),
    ([*TINY, "diffusion.beta_schedule=quadratic"], "diffusion.beta_schedule is 'quadratic'.*allowed: linear, cosine, sigmoid"),
    ([*TINY, "diffusion.betas=[0.1,0.2]", "diffusion.timesteps=2"], r"diffusion.betas is \(0.1, 0.2\).*allowed: its default"),
    ([*TINY, "diffusion.rescale_betas_zero_snr=true"], "diffusion.rescale_betas_zero_snr is True.*allowed: its default"),
    ([*TINY, "diffusion.variance=fixed_large"], "the variance is 'fixed_large', which GaussianDiffusion.*allowed: fixed_small"),
    ([*TINY, "model.learned_variance=true"],
     "diffusion.objective is 'pred_v', which LearnedGaussianDiffusion does not know, allowed: pred_noise"),
    ([*TINY, "model.learned_variance=true", "diffusion.objective=pred_noise", "model.self_condition=true"],
     "model.self_condition is True, which LearnedGaussianDiffusion does not know, allowed: False"),
])
def test_what_denoising_diffusion_pytorch_cannot_say_is_named(overrides, message):
    with pytest.raises(InputError, match=message):
        unet_keywords(given(overrides).config)
        process_keywords(given(overrides))


# Graphs.


def test_a_mindir_file_computes_exactly_what_was_exported(saved_run, tmp_path):
    run = saved_run(tmp_path / "run", ["model.name=tiny_unet", "model.dim=4", "model.dim_mults=[1,2]", "model.num_classes=3",
                                       "model.self_condition=true", "data.image_size=8", "data.channels=1"])
    folder = export_run(run, "mindir", tmp_path / "out", batch_sizes=[2, 1, 2])
    assert left(folder) == ["batch_1.mindir", "batch_2.mindir", "denoiser.json"]
    with runtime.portable():
        diffusion, _ = load_diffusion(run)
    wanted = Denoiser(diffusion).set_train(False)
    for batch in (1, 2):
        inputs = [Tensor(array[::-1].copy()) for array in example(diffusion, batch).values()]
        graph = nn.GraphCell(ms.load(str(folder / f"batch_{batch}.mindir")))
        np.testing.assert_array_equal(graph(*inputs).asnumpy(), runtime.compiled(wanted.construct)(*inputs).asnumpy())


@NEEDS_EXPORTER
@pytest.mark.parametrize("network", ["unet", "ddpm_unet"])
def test_an_onnx_file_computes_in_another_program_what_the_network_computes(network, run, saved_run, tmp_path, without_graphs):
    import onnx
    import onnxruntime

    if network == "ddpm_unet":
        run = saved_run(tmp_path / "run", [*DDPM, "model.learned_variance=true"])
    folder = export_run(run, "onnx", tmp_path / "out", batch_sizes=[2])
    diffusion, _ = load_diffusion(run)
    session = onnxruntime.InferenceSession(str(folder / "batch_2.onnx"))
    inputs = {name: array[::-1].copy() for name, array in example(diffusion, 2).items()}
    assert list(inputs) == {"unet": ["x", "time", "x_self_cond", "classes"], "ddpm_unet": ["x", "time"]}[network]
    found, = session.run(["output"], inputs)
    np.testing.assert_allclose(found, expected(diffusion, inputs), rtol=0, atol=1e-4)
    model = onnx.load(folder / "batch_2.onnx")
    assert {node.domain for node in model.graph.node} == {""} and model.opset_import[0].version >= 11
    about = json.loads((folder / "denoiser.json").read_text())
    described = {name: ([2 if side == "batch" else side for side in values["shape"]], values["type"])
                 for name, values in about["inputs"].items()}
    assert described == {name: (list(array.shape), str(array.dtype)) for name, array in inputs.items()}
    assert [2, *about["output"]["shape"][1:]] == list(found.shape)
    if network == "ddpm_unet":
        the_sampler_of_the_guide_draws_what_the_run_draws(folder, diffusion)


def the_sampler_of_the_guide_draws_what_the_run_draws(folder, diffusion):
    code, = (block for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S) if "alphas_cumprod" in block)
    for shown, here in (('"RUN/exports/onnx", 50', f'"{folder}", 5'), ("batch_16", "batch_2")):
        assert shown in code
        code = code.replace(shown, here)
    found = {}
    exec(code, found)
    latents = np.random.default_rng(0).standard_normal((2, diffusion.channels, *diffusion.image_size)).astype(np.float32)
    images = diffusion.sample(2, latents=latents, sampler="ddim", steps=5, eta=0.0)
    np.testing.assert_allclose(found["images"], images, rtol=0, atol=1e-4)


@pytest.fixture
def quick(monkeypatch):
    """Graphs that are no graphs: what they compute is a function of the right answer."""
    def use(answer=lambda wanted: wanted, save=lambda *_: None):
        class Fake:
            ending = ".fake"

            def save(self, denoiser, inputs, path):
                open(path, "w").close()
                save(path)

            def outputs(self, path, inputs):
                return answer(np.zeros_like(inputs["x"]))

        monkeypatch.setattr(graphs, "expected", lambda diffusion, inputs: np.zeros_like(inputs["x"]))
        monkeypatch.setitem(TARGETS._parts, "onnx", Target(functools.partial(graphs.write, Fake)))

    return use


@pytest.mark.parametrize("answer", [lambda right: right + 1e-3, lambda right: right[:, :, :4], lambda right: right * np.nan])
def test_a_graph_that_computes_something_else_is_not_exported(answer, run, quick, tmp_path):
    quick(answer)
    with pytest.raises(EvaluationError, match=r"the graph that MindSpore wrote differs from the network by .*, allowed: 0\.0001"):
        export_run(run, "onnx", tmp_path / "deep" / "out")
    assert not left(tmp_path)


def test_what_is_written_can_be_read_by_whom_the_umask_lets(run, quick, tmp_path):
    quick(save=lambda path: os.chmod(path, 0o400))
    folder = export_run(run, "onnx", tmp_path / "out")
    assert (folder / "batch_1.fake").stat().st_mode == (folder / "denoiser.json").stat().st_mode
    assert (folder / "batch_1.fake").stat().st_mode & 0o200


@NEEDS_EXPORTER
@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_what_onnx_needs_is_asked_for_before_anything_is_built(package, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", ms)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(graphs, "load_diffusion", None)
    with pytest.raises(InputError, match=f"^exported graphs are .* by {package}, but {package} is not installed: pip install "
                                         f"{package}$"):
        export_run(run, "onnx", tmp_path / "out")


def test_a_mindspore_without_the_exporter_is_named(run, tmp_path, monkeypatch):
    monkeypatch.delattr(ms, "onnx", raising=False)
    with pytest.raises(InputError, match=r"^this MindSpore writes no ONNX, allowed: 2\.10 or later$"):
        export_run(run, "onnx", tmp_path / "out")


@NEEDS_EXPORTER
def test_an_operator_that_cannot_be_said_in_onnx_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(ms.onnx, "export", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("Exporting Erf is not\n\n- C++")))
    denoiser = Denoiser.__new__(Denoiser)
    nn.Cell.__init__(denoiser)
    denoiser.network = nn.ReLU()
    with pytest.raises(InputError, match=r"^the network ReLU cannot be written as ONNX: Exporting Erf is not$"):
        graphs.Onnx().save(denoiser, {}, str(tmp_path / "x.onnx"))


# Paths.


@pytest.mark.parametrize(("to", "output", "keywords", "message"), [
    ("pytorch", "x", {}, "the form is 'pytorch', allowed: diffusers, lucidrains, safetensors, mindir, onnx"),
    ("safetensors", "x.pt", {}, r"the output is .*x.pt, allowed: a file ending in .safetensors"),
    ("safetensors", "there.safetensors", {}, "there.safetensors, which is there already, allowed: a path where nothing is"),
    ("diffusers", "there", {}, "the output is .*there, which is there already"),
    ("mindir", "broken", {}, "the output is .*broken, which is there already"),
    ("diffusers", "out", {"batch_sizes": [2]}, "batch sizes for diffusers, which has none, allowed: with mindir, onnx"),
    ("mindir", "out", {"batch_sizes": [1, 0]}, "the batch size is 0, allowed: at least 1"),
    ("safetensors", "there.safetensors/x.safetensors", {}, "the output .*there.safetensors/x.safetensors: "),
])
def test_a_mistake_makes_nothing(to, output, keywords, message, run, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there.safetensors").write_text("mine")
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(InputError, match=message):
        export_run(run, to, tmp_path / output, **keywords)
    assert left(tmp_path) == ["broken", "there", "there.safetensors"] and not left(tmp_path / "there")
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_a_disk_that_is_full_leaves_nothing(run, tmp_path, monkeypatch):
    def half(trained, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(TARGETS._parts, "safetensors", Target(half, ".safetensors"))
    with pytest.raises(InputError, match=r"the output .*x.safetensors: No space left on device"):
        export_run(run, "safetensors", tmp_path / "deep" / "x.safetensors")
    assert not left(tmp_path)


@pytest.mark.parametrize("name", ["mid_attn.to_qkv.weight", "mid_block1.conv1.bias"])
@pytest.mark.parametrize("array", [np.zeros(()), np.zeros((2, 2, 2))])
def test_weights_of_another_network_are_refused_in_one_line(name, array, saved_run, tmp_path, monkeypatch):
    run = saved_run(tmp_path / "run", DDPM)
    stored = Checkpoint.arrays
    monkeypatch.setattr(Checkpoint, "arrays", lambda self, file: {**stored(self, file), name: array})
    with pytest.raises(InputError, match=rf"ema.safetensors does not fit the network: {name} is .* here and .* there"):
        export_run(run, "diffusers", tmp_path / "out")
    assert left(tmp_path) == ["run"]


def test_a_run_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint .*nothing does not exist"):
        export_run(tmp_path / "nothing", "safetensors", tmp_path / "x.safetensors")
