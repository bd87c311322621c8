"""What make_exports_read_back.py and test_golden_exports.py share: runs to export, and the noise that both sample with."""

import numpy as np

IMAGES = 2
STEPS = 5
_SPACED = ["sampling.sampler=ddpm", f"sampling.steps={STEPS}", "sampling.spacing=leading"]
_ALL = ["sampling.sampler=ddpm", "sampling.steps=null", f"diffusion.timesteps={STEPS}"]
# Name: (form, keys of the recipe).
CASES = {
    "ddpm": ("diffusers", [
        "model.name=ddpm_unet", "model.dim=8", "model.dim_mults=[1,2]", "model.norm_groups=4", "model.num_res_blocks=1",
        "model.attention_levels=[false,true]", "data.image_size=[8,4]", "data.channels=1", "diffusion.objective=pred_noise",
        "diffusion.beta_schedule=linear", "diffusion.variance=fixed_large", "diffusion.timesteps=1000", *_SPACED]),
    "adm": ("diffusers", [
        "model.name=ddpm_unet", "model.dim=8", "model.dim_mults=[1,2]", "model.norm_groups=4", "model.num_res_blocks=1",
        "model.attention_levels=[true,false]", "model.num_head_channels=4", "model.use_scale_shift_norm=true",
        "model.resblock_updown=true", "model.downsample_padding=around", "model.time_embedding=cos_sin", "model.norm_eps=1e-5",
        "model.learned_variance=true", "data.image_size=8", "data.channels=3", "diffusion.objective=pred_v",
        "diffusion.beta_schedule=sigmoid", "sampling.dynamic_threshold=0.9", "diffusion.timesteps=10", *_SPACED]),
    "unet": ("lucidrains", [
        "model.dim=8", "model.dim_mults=[1,2]", "model.attn_heads=2", "model.attn_dim_head=4", "model.init_dim=12",
        "model.full_attn=[true,false]", "model.self_condition=true", "data.image_size=[4,8]", "data.channels=3",
        "diffusion.objective=pred_x0", "diffusion.beta_schedule=sigmoid", "diffusion.sigmoid_tau=0.7", *_ALL]),
    "unet_learned": ("lucidrains", [
        "model.dim=8", "model.dim_mults=[1,2]", "model.attn_heads=[1,2]", "model.attn_dim_head=4", "model.full_attn=false",
        "model.learned_variance=true", "data.image_size=8", "data.channels=1", "diffusion.objective=pred_noise",
        "diffusion.beta_schedule=cosine", *_ALL]),
}


def noise(shape: tuple) -> np.ndarray:
    """The first image and what each transition adds, float32 (STEPS + 1, IMAGES, *shape)."""
    return np.random.Generator(np.random.Philox(key=15)).standard_normal((STEPS + 1, IMAGES, *shape), np.float32)
