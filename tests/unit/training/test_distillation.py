"""Progressive distillation: the target, on data for which two steps of the teacher are a formula; and the chain of runs."""

import json
import os
import shutil
import signal
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from PIL import Image

from ddpm_ms import Trainer, load_diffusion, runtime
from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.cli import main
from ddpm_ms.config import Config, DistillationConfig, override_config, to_dict
from ddpm_ms.diffusion.distillation import student_grid
from ddpm_ms.diffusion.schedules import create_schedule
from ddpm_ms.distillation import Distillation
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.exact import GaussianMixture, run
from ddpm_ms.gaussian_diffusion import GaussianDiffusion
from ddpm_ms.sampling.spacing import sampling_steps
from ddpm_ms.training.distillation import halvings, student_config
from ddpm_ms.training.lock import alone

T, SIZE = 60, 4
SCHEDULE = create_schedule("cosine", T)
DATA = GaussianMixture(np.array([1.0]), np.linspace(-0.3, 0.3, SIZE**2)[None], np.linspace(0.05, 0.2, SIZE**2)[None])
OPTIONS = {"sampler": "ddim", "spacing": "linspace", "clip_x_start": False, "seed": 3}


class Affine(nn.Cell):
    """A network that is ``gain`` x + ``offset``, both (T, C, H, W): what the best one is for Gaussian data."""

    channels, out_dim, self_condition = 1, 1, False

    def __init__(self, gain, offset, feedback=None):
        super().__init__()
        self.gain, self.offset = (Tensor(table.reshape(T, 1, SIZE, SIZE), ms.float32) for table in (gain, offset))
        self.feedback, self.self_condition = feedback or 0.0, feedback is not None
        self.gather = ops.Gather()

    def construct(self, x, time, x_self_cond=None, classes=None, dropout_key=None):
        out = self.gather(self.gain, time, 0) * x + self.gather(self.offset, time, 0)
        return out if x_self_cond is None else out + self.feedback * x_self_cond


def affine(x_start_of, objective, **keywords):
    """The `Affine` network whose x0 at (x, t) is ``x_start_of`` (float64, affine in x)."""
    zero, one = np.zeros((1, SIZE**2)), np.ones((1, SIZE**2))
    offset = np.concatenate([x_start_of(zero, t) for t in range(T)])
    gain = np.concatenate([x_start_of(one, t) for t in range(T)]) - offset
    if objective == "pred_v":  # v = (alpha x - x0) / sigma
        alpha, sigma = SCHEDULE.sqrt_alphas_cumprod[:, None], SCHEDULE.sqrt_one_minus_alphas_cumprod[:, None]
        gain, offset = (alpha - gain) / sigma, -offset / sigma
    return Affine(gain, offset, **keywords)


def exact(x, t):
    return DATA.denoiser(SCHEDULE)(x, t).pred_x_start


def one_step_solution(steps):
    """(x, t) -> the x0 whose single DDIM step from t lands where two exact ones do."""
    visited = sampling_steps(SCHEDULE, 2 * steps)

    def x_start(x, t):
        if t not in visited[:-1:2]:
            return np.zeros_like(x)
        place = visited.index(t)
        landed, _ = run("ddim", DATA, SCHEDULE, visited[place:place + 3], x)
        (alpha, sigma), (alpha_s, sigma_s) = SCHEDULE.alpha_sigma(t), SCHEDULE.alpha_sigma(visited[place + 2])
        return (landed - sigma_s / sigma * x) / (alpha_s - sigma_s / sigma * alpha)

    return x_start


def distillation(student, teacher, steps, objective="pred_x0", **keywords):
    return Distillation(student, teacher, steps=steps, image_size=SIZE, timesteps=T, objective=objective, clip_x_start=False,
                        **keywords)


def batch(times):
    images = (DATA.draw(len(times), np.random.default_rng(0)).reshape(-1, 1, SIZE, SIZE) + 1) / 2
    noise = np.random.default_rng(1).standard_normal(images.shape)
    return Tensor(images, ms.float32), Tensor(np.array(times), ms.int32), Tensor(noise, ms.float32)


@pytest.mark.parametrize("steps", [1, 4, 7, 30])
@pytest.mark.parametrize("objective", ["pred_x0", "pred_v"])
def test_the_student_that_lands_where_two_exact_steps_do_has_no_loss(steps, objective):
    teacher = affine(exact, objective)

    def losses(x_start_of):
        return distillation(affine(x_start_of, objective), teacher, steps, objective).losses(*batch(range(T))).asnumpy()

    assert (losses(one_step_solution(steps)) < 1e-8 * losses(lambda x, t: 0 * x)).all()
    # And one that is as its teacher has some: two steps are not one.
    assert losses(exact).mean() > 1e-4 * losses(lambda x, t: 0 * x).mean()


@pytest.mark.parametrize("objective", ["pred_x0", "pred_v"])
def test_a_student_without_loss_draws_what_its_teacher_draws_with_twice_the_steps(objective):
    student, teacher = (GaussianDiffusion(affine(f, objective), image_size=SIZE, timesteps=T, objective=objective)
                        for f in (one_step_solution(5), exact))
    np.testing.assert_allclose(student.sample(6, steps=5, **OPTIONS), teacher.sample(6, steps=10, **OPTIONS), atol=1e-5)
    assert np.abs(teacher.sample(6, steps=5, **OPTIONS) - teacher.sample(6, steps=10, **OPTIONS)).max() > 1e-3


def test_at_the_clean_end_the_target_is_the_teachers_last_estimate():
    process = distillation(affine(exact, "pred_x0"), affine(exact, "pred_x0"), 5)
    x = np.random.default_rng(2).standard_normal((3, SIZE**2))
    visited = sampling_steps(SCHEDULE, 10)
    landed, _ = run("ddim", DATA, SCHEDULE, visited[-3:], x)  # x0 itself: the last step ends at the clean image
    middle, share, t = (Tensor(np.full((3, *shape), value), kind) for value, kind, shape in (
        (visited[-2], ms.int32, ()), (1.0, ms.float32, (1, 1, 1)), (visited[-3], ms.int32, ())))
    assert process.share.asnumpy()[0] == 1
    target = process._target(Tensor(x.reshape(3, 1, SIZE, SIZE), ms.float32), t, middle, share, False, None)
    np.testing.assert_allclose(target.asnumpy().reshape(3, -1), landed, atol=1e-5)


@pytest.mark.parametrize("timesteps", [2, 37, 1000])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_grid_of_a_student_is_that_of_the_sampler_and_nests_in_its_teachers(timesteps, zero_snr):
    schedule = create_schedule("cosine", timesteps, rescale_betas_zero_snr=zero_snr)
    for steps in {1, timesteps // 8, timesteps // 3, timesteps // 2} - {0}:
        visited, twice = sampling_steps(schedule, steps), sampling_steps(schedule, 2 * steps)
        assert twice[::2] == visited
        start, middle, share = student_grid(schedule, twice)
        assert sorted(set(start), reverse=True) == visited[:-1]
        for t in range(timesteps):
            assert start[t] == min(s for s in visited[:-1] if s >= t)
            assert middle[t] == twice[2 * visited.index(start[t]) + 1]
        shares = np.unique(start, return_counts=True)[1]
        assert shares.max() - shares.min() <= 1  # a uniform t does every step justice
        assert ((share > 0) & (share <= 1)).all() and share[0] == 1 and (steps == 1 or share[-1] < 1)


def test_estimates_are_fed_back_as_in_sampling():
    feedback = 0.25
    teacher = affine(exact, "pred_x0", feedback=feedback)
    process = distillation(affine(one_step_solution(5), "pred_x0", feedback=feedback), teacher, 5)
    visited = sampling_steps(SCHEDULE, 10)
    x, ends = np.random.default_rng(2).standard_normal((3, SIZE**2)), []
    middle, share, t = (Tensor(np.full((3, *shape), value), kind) for value, kind, shape in (
        (visited[1], ms.int32, ()), (process.share.asnumpy()[-1], ms.float32, (1, 1, 1)), (visited[0], ms.int32, ())))
    for coin in (False, True):
        last = exact(x, visited[0]) if coin else np.zeros_like(x)

        def denoise(x, t):
            nonlocal last
            last = exact(x, t) + feedback * last
            alpha, sigma = SCHEDULE.alpha_sigma(t)
            return last, (x - alpha * last) / sigma

        point = x
        for s, e in zip(visited[:2], visited[1:3]):
            x_start, noise = denoise(point, s)
            alpha, sigma = SCHEDULE.alpha_sigma(e)
            point = alpha * x_start + sigma * noise
        (alpha, sigma), (alpha_s, sigma_s) = SCHEDULE.alpha_sigma(visited[0]), SCHEDULE.alpha_sigma(visited[2])
        wanted = (point - sigma_s / sigma * x) / (alpha_s - sigma_s / sigma * alpha)
        target = process._target(Tensor(x.reshape(3, 1, SIZE, SIZE), ms.float32), t, middle, share, coin, None)
        np.testing.assert_allclose(target.asnumpy().reshape(3, -1), wanted, atol=1e-5)
        ends.append(wanted)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_the_teacher_is_frozen_and_stays_out_of_training_mode(tiny_unet):
    process = Distillation(tiny_unet(dropout=0.5), tiny_unet(dropout=0.5), steps=4, image_size=4, timesteps=20)
    student = {id(p) for p in process.model.get_parameters()}
    assert {id(p) for p in process.trainable_params()} <= student
    assert not any(id(p) in student or p.requires_grad for p in process.teacher.get_parameters())
    process.set_train(True)
    assert process.model.training and not process.teacher.training and not process.teacher.mid_block1.training


@pytest.mark.parametrize(("keywords", "message"), [
    ({"objective": "pred_noise"}, "objective is 'pred_noise', allowed in distillation: pred_v, pred_x0"),
    ({"steps": 11}, "steps .* is 11, allowed: 1 to 10"),
    ({"learned_variance": True}, "learned_variance is True, allowed in distillation: False"),
])
def test_what_cannot_be_distilled_is_refused(tiny_unet, keywords, message):
    learned = {"learned_variance": keywords.pop("learned_variance", False)}
    with pytest.raises(InputError, match=message):
        Distillation(tiny_unet(**learned), tiny_unet(**learned), image_size=4, timesteps=20, **{"steps": 4, **keywords})


def test_halving_says_where_it_can_lead():
    assert halvings(64, 4) == [64, 32, 16, 8, 4] and halvings(6, 3) == [6, 3] and halvings(5, 5) == [5]
    for steps, to, message in ((64, 5, "to is 5, allowed with steps=64, which is halved: 64, 32, 16, 8, 4, 2, 1"),
                               (6, 1, "allowed with steps=6, which is halved: 6, 3"), (4, 8, "to is 8"), (0, 1, "steps is 0")):
        with pytest.raises(InputError, match=message):
            halvings(steps, to)


@pytest.fixture(scope="module")
def make_teacher(tmp_path_factory):
    """A function that leaves an untrained run of digits behind (no step is computed, so nothing is compiled)."""
    from ddpm_ms.data import create_dataset
    from ddpm_ms.gaussian_diffusion import create_diffusion
    from ddpm_ms.models import create_model

    def make(*overrides):
        config = override_config(Config(), [
            "model.dim=8", "model.dim_mults=[1]", "model.attn_heads=1", "model.attn_dim_head=4", "model.num_classes=10",
            "diffusion.timesteps=20", "data.name=digits", "data.image_size=8", "data.channels=1", "training.train_num_steps=0",
            "training.train_batch_size=4", "training.num_samples=0", *overrides])
        diffusion = create_diffusion(config.diffusion, create_model(config.model, 1), 8)
        trainer = Trainer(diffusion, create_dataset(config.data), results_folder=tmp_path_factory.mktemp("teacher") / "run",
                          data=config.data, sampling=config.sampling, **vars(config.training))
        trainer.describe()
        trainer.save()
        return trainer.run_dir

    return make


@pytest.fixture(scope="module")
def teacher(make_teacher):
    return make_teacher()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--steps", "8", "--to", "3"], "to is 3, allowed with steps=8, which is halved: 8, 4, 2, 1"),
    (["--steps", "0"], "steps is 0, allowed: at least 1"),
    (["--steps", "12"], "steps (of the student, half of the teacher's) is 12, allowed: 1 to 10"),
    (["--steps", "4", "training.train_lrr=1"], "unknown key 'training.train_lrr', did you mean 'training.train_lr'?"),
    (["--steps", "4", "model.dim=16"], "override 'model.dim=16', allowed in distillation: keys of training, data and evaluation"),
    (["--steps", "4", "sampling.eta=1"], "override 'sampling.eta=1', allowed in distillation"),
    (["--steps", "4", "runtime.compile_cache=true"], "override 'runtime.compile_cache=true', allowed in distillation"),
    (["--steps", "4", "training.train_batch_size=1798"], "at most the 1797"),
    (["--steps", "4", "data.name=array"], "data.root is not set"),
    (["--steps", "4", "--teacher", "/none"], "checkpoint /none does not exist, allowed: a run directory"),
])
def test_a_mistake_is_one_line_status_2_and_nothing_written(teacher, tmp_path, capsys, arguments, message):
    arguments = ["distill", "--teacher", str(teacher), "--run-dir", str(tmp_path / "out"), "--device", "CPU", *arguments]
    assert main(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ddpm-ms: ") and message in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("override", "message"), [
    ("diffusion.objective=pred_noise", "objective is 'pred_noise', allowed in distillation: pred_v, pred_x0"),
    ("model.learned_variance=true", "learned_variance is True, allowed in distillation: False"),
])
def test_a_teacher_that_cannot_teach_is_one_line(make_teacher, tmp_path, capsys, override, message):
    assert main(["distill", "--teacher", str(make_teacher(override)), "--run-dir", str(tmp_path / "out"), "--device", "CPU",
                 "--steps", "4"]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.fixture
def distill(teacher, tmp_path):
    """A function that runs the command; returns its status."""
    def command(*arguments, source=teacher):
        return main(["distill", "--teacher", str(source), "--run-dir", str(tmp_path / "out"), "--device", "CPU", "--steps", "4",
                     *arguments, "training.train_num_steps=2", "training.ema_update_every=1", "training.log_every=1",
                     "training.save_and_sample_every=1"])

    return command


def test_students_of_a_student_go_on_with_its_recipe(make_teacher):
    plain = student_config(checkpoint.read(next((make_teacher("training.train_lr=0.5") / "checkpoints").iterdir())))
    assert (plain.training.train_lr, plain.training.train_num_steps, plain.training.lr_schedule) == (0.05, 300, "cosine")
    state = {"step": 7000, "config": to_dict(plain.model_copy(update={"distillation": DistillationConfig(steps=8)}))}
    assert student_config(checkpoint.Checkpoint(Path("x"), state)).training == plain.training
    state["config"]["distillation"]["steps"] = None
    assert student_config(checkpoint.Checkpoint(Path("x"), state)).training.train_num_steps == 700


def bits(folder):
    return {path: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_a_stage_is_a_run_and_a_signal_ends_the_chain_after_it(teacher, make_teacher, distill, tmp_path, capsys, monkeypatch):
    save = Trainer.save

    def save_and_signal(self, last=False):
        save(self, last)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "save", save_and_signal)
    assert distill("--to", "2") == 0
    stage = tmp_path / "out" / "steps_0004"
    assert list(stage.parent.iterdir()) == [stage]
    diffusion, found = load_diffusion(stage)
    told = found.config
    assert (found.step, told.distillation.teacher, told.distillation.steps) == (2, str(teacher), 4)
    assert (told.sampling.sampler, told.sampling.steps, told.sampling.spacing) == ("ddim", 4, "linspace")
    # Only the student is in it, it began as its teacher, and it has learned.
    before, after = load_diffusion(teacher)[1].arrays("ema.safetensors"), found.arrays("model.safetensors")
    assert type(diffusion) is GaussianDiffusion and before.keys() == after.keys()
    assert 0 < max(np.abs(before[name] - after[name]).max() for name in before) < 1e-3
    assert all(json.loads(line)["grad_norm"] > 0 for line in (stage / "metrics.jsonl").read_text().splitlines())
    # Finished: nothing is done again.
    written = {path: path.stat().st_mtime_ns for path in stage.rglob("*.safetensors")}
    assert distill() == 0
    assert {path: path.stat().st_mtime_ns for path in stage.rglob("*.safetensors")} == written
    # Somebody else trains it: nothing is done to it.
    capsys.readouterr()
    with alone(stage, runtime.current()):
        assert distill() == 2
    assert f"run directory {stage} is trained by this process already" in capsys.readouterr().err
    # Another teacher is not taken for this one; and a student's recipe is not trained as a plain one.
    capsys.readouterr()
    assert distill(source=make_teacher()) == 2
    assert "holds another run (distillation.sha256: " in capsys.readouterr().err
    assert distill(source=stage) == 2
    assert f"steps is 4, allowed with {stage}, itself a student of 4 steps: half of these" in capsys.readouterr().err
    assert main(["train", "--config", str(stage / "config.yaml"), "--run-dir", str(tmp_path / "x"), "--device", "CPU"]) == 2
    assert "distillation.steps is 4 in" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_chain_is_resumed_where_it_was_interrupted_and_ends_the_same(distill, tmp_path):
    assert distill("--to", "2") == 0
    first, second = tmp_path / "out" / "steps_0004", tmp_path / "out" / "steps_0002"
    assert load_diffusion(second)[1].config.distillation.teacher == str(first)
    whole = bits(tmp_path / "out")
    shutil.rmtree(second / "checkpoints" / "step_00000002")
    assert distill("--to", "2") == 0 and bits(tmp_path / "out") == whole
    # It is sampled with its own steps.
    assert main(["sample", "--checkpoint", str(second), "--device", "CPU", "-n", "3", "--gif", str(tmp_path / "x.gif")]) == 0
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 3  # noise, one step, and the result of the other
