"""Scripts for denoising-diffusion-pytorch, with the import changed, run or are told in one line what to write instead."""

import numpy as np
import pytest
from mindspore import Tensor

from ddpm_ms import GaussianDiffusion, Trainer, Unet
from ddpm_ms.errors import InputError

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
    ("amp", "precision"), ("mixed_precision_type", "precision"), ("split_batches", "train_batch_size"),
    ("convert_image_to", "channels of the network"), ("calculate_fid", "ddpm-ms evaluate"),
    ("num_fid_samples", "ddpm-ms evaluate"), ("inception_block_idx", "ddpm-ms evaluate"),
    ("save_best_and_latest_only", "keep_last"),
])
def test_a_keyword_of_its_trainer_that_means_something_else_here_is_told_what_to_write(tmp_path, keyword, instead):
    with pytest.raises(InputError, match=rf"unknown key .training\.{keyword}., allowed: .*{instead}"):
        Trainer(diffusion(), IMAGES, results_folder=tmp_path / "run", **{keyword: True})
    assert not (tmp_path / "run").exists()


def test_loading_a_milestone_is_told_that_training_resumes_by_itself(tmp_path):
    trainer = Trainer(diffusion(), IMAGES, train_batch_size=4, results_folder=tmp_path)
    with pytest.raises(InputError, match=r"Trainer.load\(3\), allowed: nothing, for train\(\) resumes"):
        trainer.load(3)


def test_the_number_of_groups_of_its_older_versions_is_told_what_to_write():
    with pytest.raises(InputError, match=r"unknown key .model\.resnet_block_groups., allowed: block: group"):
        Unet(8, resnet_block_groups=8)
