"""What can be set: one class per section of a recipe, one field per setting.

A field states its name, type, default, bounds, choices and help, once. Recipes, the command line, the keywords of `ddpm_ms.Unet`,
`ddpm_ms.GaussianDiffusion` and `ddpm_ms.Trainer`, error messages and the reference page all come from here. Nothing here imports
MindSpore. The section of a network stands beside the network, in `ddpm_ms.models`; the choices of a setting that names a part
stand in `ddpm_ms.parts`.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Dict, Final, List, Literal, Mapping, Optional, Tuple, Type, TypeVar, Union, cast

from annotated_types import Ge, Le
from pydantic import AfterValidator, AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ddpm_ms.config.messages import LARGEST_INT, OneOf, check_keys, line_about
from ddpm_ms.errors import InputError, did_you_mean, shown
from ddpm_ms.parts import (
    COMPARISONS,
    DATASETS,
    FEATURES,
    LOSS_WEIGHTS,
    NETWORKS,
    SAMPLERS,
    SCHEDULES,
    SPACINGS,
    TIMESTEP_SAMPLERS,
    options_of,
)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a text; a person means the number."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return value


def _no_flag(value: Any) -> Any:
    """True is 1 in Python, but nobody means it."""
    return str(value) if isinstance(value, bool) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _some(value: Any) -> Any:
    """One text stands for a list of it alone."""
    return (value,) if isinstance(value, str) else _tuple(value)


Place = Annotated[str, AfterValidator(os.path.expanduser)]  # a path; ~ is the home directory, which no shell expands in a.b=~/c
Whole = Annotated[int, Le(LARGEST_INT)]
Count = Annotated[int, Ge(1), Le(LARGEST_INT)]
Number = Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
Share = Annotated[float, BeforeValidator(_number), AllowInfNan(False), Ge(0.0), Le(1.0)]
Counts = Annotated[Tuple[Count, ...], BeforeValidator(_tuple), Field(min_length=1)]
Shares = Annotated[Tuple[Share, ...], BeforeValidator(_tuple), Field(min_length=1)]
Flags = Annotated[Tuple[bool, ...], BeforeValidator(_tuple)]
Names = Annotated[Tuple[str, ...], BeforeValidator(_tuple)]
Metrics = Annotated[Tuple[Annotated[str, OneOf(COMPARISONS)], ...], BeforeValidator(_some), Field(min_length=1)]
Size = Annotated[Tuple[Count, Count], BeforeValidator(_tuple)]
Betas = Annotated[Tuple[Annotated[Number, Ge(1e-7), Le(0.9999999)], Annotated[Number, Ge(1e-7), Le(0.9999999)]],
                  BeforeValidator(_tuple)]  # MindSpore's Adam takes the open interval from 0 to 1

Channels = Annotated[Literal[1, 3, 4], BeforeValidator(_no_flag)]
Device = Literal["auto", "Ascend", "GPU", "CPU"]
ImageSize = Union[int, Tuple[int, int]]
Variance = Literal["fixed_small", "fixed_large", "learned"]


_S = TypeVar("_S", bound="Section")


def setting(default: Any, help: str, also: str = "", **bounds: Any) -> Any:
    """A field: its default, what it does, its bounds ``ge`` and ``le``, and what else it is called ``also``, in other projects:
    who writes that is told the name here."""
    return Field(default, description=help, json_schema_extra={"also": [*also.split()]} if also else None, **bounds)


class Section(BaseModel):
    """Settings that belong together: frozen, and checked when they are made.

    Raises:
        InputError: a key is unknown, or a value has the wrong type or lies outside of its bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
    section: ClassVar[str]  # what its keys are known under: section.key
    renamed: ClassVar[Mapping[str, str]] = {}  # "key" or "key=value" that are no more, to what says the same
    implied: ClassVar[Mapping[str, Any]] = {}  # keywords of other projects, and the value that says what is so here anyway

    def __init__(self, **values: Any) -> None:
        check_keys(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(line_about(type(self), values, error)) from None

    def changed(self: _S, changes: Mapping[str, Any]) -> _S:
        """It with some of its values changed, and checked again."""
        return type(self)(**{**dict(self), **changes})


def section_of(kind: Type[_S], config: Optional[_S], keywords: Dict[str, Any], **positional: Any) -> _S:
    """``config`` if there is one, else the section of this ``kind`` that the ``keywords`` make, and those of ``positional`` that
    are not None. Keywords that say what is so anyway (`Section.implied`) are passed over.

    Raises:
        InputError: both are given, or a keyword is not allowed.
    """
    keywords = {key: value for key, value in keywords.items() if key not in kind.implied or value is not kind.implied[key]}
    keywords = {**keywords, **{key: value for key, value in positional.items() if value is not None}}
    if config is None:
        return kind(**keywords)
    if keywords:
        raise InputError(f"{', '.join(keywords)} beside config, allowed: either a {kind.__name__} or its keywords")
    return config


class RuntimeConfig(Section):
    """Where and how to run."""

    section = "runtime"
    device: Device = setting("auto", "auto tries Ascend, GPU and CPU in this order", also="device_target accelerator")
    mode: Literal["graph", "pynative"] = setting("graph", "pynative: operator by operator, slow, for debugging")
    compile_cache: Optional[bool] = setting(
        None, "keep compiled graphs in the user's cache directory for the next start; null: on one device, without own parts")


DEFAULT_NETWORK: Final = "unet"
CUSTOM: Final = "custom"
NO_CLASS: Final = "none"


class NetworkConfig(Section):
    """What every network takes. A network's own section stands beside it, gives `name` its default, and adds its keys."""

    section = "model"
    name: str
    dim: Whole = setting(
        64, "width of the first level",
        also="model_channels base_channels num_channels ch base_dim width hidden_size n_feat", ge=4)
    dim_mults: Counts = setting(
        (1, 2, 4, 8), "width of each level in multiples of dim; every level but the last halves the size",
        also="channel_mult ch_mult channel_mults block_out_channels dim_mult")
    self_condition: bool = setting(
        False, "take the network's own estimate of x0 as a further input (arXiv:2208.04202)", also="self_cond self_conditioning")
    learned_variance: bool = setting(
        False, "twice the output channels; the second half spans the variance (arXiv:2102.09672)",
        also="learn_sigma learn_variance")
    num_classes: Optional[Whole] = setting(
        None, "condition on a class label; null: on none", also="classes n_classes num_class_embeds class_cond num_labels", ge=1)


class CustomConfig(NetworkConfig):
    """A network of one's own, built in Python and not registered: what a run records of it."""

    name: Literal["custom"] = CUSTOM


def network_section(name: str) -> Type[NetworkConfig]:
    """The section of the network that is called ``name``, which imports the network and MindSpore with it.

    Raises:
        InputError: there is none.
    """
    if name == CUSTOM:
        return CustomConfig
    if name not in NETWORKS:
        near = did_you_mean(name, NETWORKS)
        raise InputError(f"model.name is {shown(name)}, allowed: {', '.join(NETWORKS)}{near} (ddpm_ms.register_network adds "
                         "one of your own)")
    section: Type[NetworkConfig] = NETWORKS[name].config_class
    return section


class DiffusionConfig(Section):
    """The process and its loss; see `ddpm_ms.GaussianDiffusion`."""

    section = "diffusion"
    renamed = {"min_snr_loss_weight": "loss_weight: min_snr", "beta_schedule=squaredcos_cap_v2": "cosine, which is the same",
               "beta_schedule=quad": "quadratic, which is the same",
               **dict.fromkeys(("objective=epsilon", "objective=eps", "objective=pred_eps"), "pred_noise, which is the same"),
               **dict.fromkeys(("objective=v_prediction", "objective=pred_velocity"), "pred_v, which is the same"),
               **dict.fromkeys(("objective=sample", "objective=start_x"), "pred_x0, which is the same"),
               "schedule_fn_kwargs": "sigmoid_start, sigmoid_end and sigmoid_tau, or cosine_s"}
    timesteps: Whole = setting(
        1000, "T, length of the process",
        also="num_timesteps num_train_timesteps diffusion_steps T steps n_timesteps noise_steps", ge=1, le=1_000_000)
    objective: Literal["pred_noise", "pred_x0", "pred_v"] = setting(
        "pred_v", "what the network predicts (v: arXiv:2202.00512, appendix D)",
        also="prediction_type parameterization predict target mean_type")
    beta_schedule: Annotated[str, OneOf(SCHEDULES)] = setting(
        "cosine", "how noise grows with the step", also="schedule noise_schedule beta_schedule_type schedule_name scheduler")
    sigmoid_start: Number = setting(-3.0, "where the sigmoid schedule begins on its curve", ge=-20.0, le=20.0)
    sigmoid_end: Number = setting(3.0, "and where it ends", ge=-20.0, le=20.0)
    sigmoid_tau: Number = setting(1.0, "and how slowly the curve rises: a larger one is nearer to a line", ge=0.1, le=10.0)
    cosine_s: Number = setting(0.008, "offset of the cosine schedule, which keeps its first steps from being too small",
                               ge=0.0, le=1.0)
    betas: Optional[Shares] = setting(
        None, "a schedule of your own instead: as many numbers between 0 and 1 as timesteps", also="trained_betas")
    rescale_betas_zero_snr: bool = setting(
        False, "leave no signal at the last step (arXiv:2305.08891); not with pred_noise",
        also="zero_terminal_snr rescale_zero_terminal_snr")
    loss_type: Literal["l1", "l2", "huber"] = setting(
        "l2", "distance of the network's output from its target; huber: with delta 1", also="loss criterion loss_fn")
    loss_weight: Annotated[str, OneOf(LOSS_WEIGHTS)] = setting(
        "snr", "weight of the loss as a function of the noise level; snr: the error of the noise, whatever is predicted")
    p2_loss_weight_gamma: Optional[Number] = setting(None, "strength of p2 (arXiv:2204.00227); null: 1", ge=0.0)
    p2_loss_weight_k: Number = setting(1.0, "constant of p2", ge=0.0)
    min_snr_gamma: Number = setting(5.0, "gamma of min_snr (arXiv:2303.09556) and soft_min_snr", ge=1e-9)
    normalize_loss_weight: bool = setting(False, "scale the weight to mean 1 over all steps")
    vb_loss_weight: Number = setting(0.001, "share of the variational bound in the loss, with learned_variance", ge=0.0)
    offset_noise_strength: Number = setting(
        0.0, "in training, a random constant times this is added to the noise of each channel: for darker and brighter images; "
        "0.1 is usual", ge=0.0)
    immiscible: bool = setting(
        False, "in training, each device hands the noise of a micro-batch to the images that are nearest to it "
        "(arXiv:2406.12303); needs scipy")
    variance: Optional[Variance] = setting(
        None, "of DDPM sampling and the bound; null: learned where the network learns it, else fixed_small")


class DataConfig(Section):
    """The images; docs/data.md says what each data set needs."""

    section = "data"
    of_two_parts: ClassVar[Tuple[str, ...]] = ("mnist", "fashion_mnist", "cifar10", "cifar100", "celeba")
    name: Annotated[str, OneOf(DATASETS)] = setting("image_folder", "which data set; array: one given in Python")
    root: Optional[Place] = setting(
        None, "the folder or the file", also="path dir data_dir data_path data_root folder dataset_path train_data_dir")
    image_size: Union[Count, Size] = setting(
        128, "pixels, or [height, width]", also="size resolution img_size image_resolution sample_size")
    channels: Channels = setting(
        3, "grey, RGB or RGBA", also="in_channels out_channels num_channels image_channels input_channels in_ch")
    on_error: Literal["refuse", "skip"] = setting("refuse", "what to do with an image that cannot be read")
    workers: Whole = setting(
        2, "threads that decode images", also="num_workers dataloader_num_workers num_parallel_workers", ge=1)
    background: Literal["white", "black"] = setting("white", "what shows through transparent images, in grey and RGB")
    class_names: Optional[Names] = setting(None, "what labels 0, 1, ... are called; null: as the data says")
    part: Literal["train", "test"] = setting(
        "train", "test: the images that are published for testing, to measure against", also="split")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.part == "test" and DATASETS.is_own(self.name) and self.name not in self.of_two_parts:
            raise InputError(f"data.part is test, allowed for {self.name}: train, for it has one part (not so "
                             f"{', '.join(self.of_two_parts)})")

    @property
    def size(self) -> Tuple[int, int]:
        """(height, width)."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    def called(self, num_classes: int) -> List[str]:
        """What labels 0 to ``num_classes`` are called, the last of which stands for no class."""
        names = self.class_names or ()
        return [*names, *map(str, range(len(names), num_classes)), NO_CLASS]

    @property
    def reading(self) -> Dict[str, Any]:
        """How files are read: keywords of `ddpm_ms.data.datasets.EncodedDataset`."""
        return dict(size=self.size, channels=self.channels, on_error=self.on_error, workers=self.workers,
                    background=self.background)


class TrainingConfig(Section):
    """The optimisation; see `ddpm_ms.Trainer`. Every count is in optimizer steps."""

    section = "training"
    renamed = {
        "optimizer=adamw": "adam with a weight_decay above 0, which is the same",
        "amp_level=O3": "O2, which is the same",
        # Keywords of denoising-diffusion-pytorch's Trainer that say something else here.
        "amp": "precision (fp16 or bf16)",
        "mixed_precision_type": "precision (fp16 or bf16)",
        "split_batches": "train_batch_size, which is that of the whole job",
        "convert_image_to": "channels of the network (1 is grey, 3 is RGB, 4 is RGBA)",
        "save_best_and_latest_only": "keep_last, and validation_images, which says what is best and keeps it",
        **dict.fromkeys(("calculate_fid", "num_fid_samples", "inception_block_idx"),
                        "evaluation.every, evaluation.images and evaluation.features, or `ddpm-ms evaluate` after training"),
    }
    implied = {"amp": False, "split_batches": True, "convert_image_to": None, "calculate_fid": False,
               "save_best_and_latest_only": False}
    train_batch_size: Whole = setting(
        16, "images per micro-batch, shared among the devices", also="batch_size batch bs global_batch_size", ge=1)
    gradient_accumulate_every: Whole = setting(
        1, "micro-batches per optimizer step",
        also="gradient_accumulation_steps grad_accum accumulate_grad_batches accumulation_steps", ge=1)
    train_num_steps: Whole = setting(
        100_000, "how long to train",
        also="steps max_steps num_steps n_iters iterations num_iterations max_iterations iters train_steps max_train_steps", ge=0)
    train_num_epochs: Optional[Whole] = setting(
        None, "how long to train, instead: steps that take every image so many times",
        also="epochs num_epochs max_epochs n_epochs epoch_size", ge=1)
    optimizer: Literal["muon", "adam"] = setting(
        "muon", "muon: for convolutions and dense layers, and Adam for the rest; docs/quality.md compares", also="optim opt")
    train_lr: Number = setting(1e-4, "learning rate", also="lr learning_rate base_lr base_learning_rate", ge=0.0)
    lr_schedule: Literal["constant", "cosine"] = setting(
        "constant", "cosine: to 0 at the end", also="lr_scheduler lr_decay learning_rate_schedule")
    lr_warmup_steps: Whole = setting(
        0, "linear rise of the learning rate at the start", also="warmup warmup_steps num_warmup_steps warmup_iters", ge=0)
    weight_decay: Number = setting(0.0, "decoupled, as in AdamW (arXiv:1711.05101)", also="wd adam_weight_decay", ge=0.0)
    augment_horizontal_flip: bool = setting(
        False, "mirror each image with probability 1/2", also="flip random_flip horizontal_flip hflip xflip")
    timestep_sampling: Annotated[str, OneOf(TIMESTEP_SAMPLERS)] = setting(
        "uniform", "how t is drawn; docs/sampling.md explains", also="schedule_sampler timestep_sampler t_sampling")
    label_dropout: Share = setting(
        0.1, "with num_classes: how often a label is hidden, so that guidance works",
        also="cond_drop_prob class_dropout_prob class_dropout p_uncond")
    adam_betas: Betas = setting((0.9, 0.99), "decay of Adam's two moments", also="betas adam_beta1 adam_beta2 beta1 beta2")
    max_grad_norm: Number = setting(
        1.0, "clip the gradient's global norm; 0: no clipping",
        also="gradient_clip grad_clip clip_grad gradient_clip_val clip_grad_norm gradient_clipping", ge=0.0)
    ema_sigma_rel: Number = setting(
        0.1, "width of the average of the weights, as a share of the run so far (arXiv:2312.02696)", ge=0.01, le=0.28)
    ema_decay: Optional[Share] = setting(
        None, "an exponential average with this decay instead, as in most papers", also="ema ema_rate ema_beta ema_max_decay")
    ema_update_every: Optional[Whole] = setting(
        None, "steps between updates of the average; null: 1, with ema_decay 10", ge=1)
    precision: Optional[Literal["fp32", "fp16", "bf16"]] = setting(
        None, "null: fp32, or fp16 where amp_level says so", also="fp16 bf16 use_fp16 mixed_precision dtype")
    amp_level: Optional[Literal["O0", "O1", "O2"]] = setting(None, "null: O0 for fp32, else O2")
    recompute: bool = setting(
        False, "compute activations again in the backward pass: slower, for less memory",
        also="gradient_checkpointing use_checkpoint checkpointing")
    max_skipped_steps: Whole = setting(50, "gradients in a row that are not finite, before the run stops", ge=1)
    save_and_sample_every: Union[Count, Literal["epoch"]] = setting(
        1000, "steps between checkpoints and sample grids",
        also="save_every save_interval save_steps checkpoint_every checkpointing_steps sample_every")
    keep_last: Whole = setting(
        3, "checkpoints that stay, the best one besides",
        also="keep_checkpoint_max max_checkpoints checkpoints_total_limit save_total_limit", ge=1)
    validation_images: Whole = setting(
        0, "held out of training; the loss on them says which checkpoint is best",
        also="val_images validation_size val_size", ge=0)
    num_samples: Whole = setting(25, "images in a sample grid; 0: no grid", ge=0)
    log_every: Whole = setting(50, "steps between log lines", also="log_interval logging_steps log_steps print_every", ge=1)
    tensorboard: bool = setting(False, "also write event files, to tensorboard/ in the run directory")
    seed: Whole = setting(0, "of everything random", also="random_seed", ge=0)


class SamplingConfig(Section):
    """How images are drawn: while training, by ``ddpm-ms sample``, and by every drawing method of `GaussianDiffusion`."""

    section = "sampling"
    renamed = {
        "sampler=euler": "ddim with eta 0, which is the same",
        # Arguments of denoising-diffusion-pytorch's sample and interpolate.
        "t": "strength, the share of the steps by which images are redrawn",
        "cond_scale": "guidance_scale",
        "rescaled_phi": "guidance_rescale",
        **dict.fromkeys(("gt", "mask"), "the method inpaint"),
    }
    of_samplers: ClassVar[Tuple[str, ...]] = ("eta", "variance")  # what some samplers take and others do not
    sampler: Annotated[str, OneOf(SAMPLERS)] = setting("ddim", "the method; docs/sampling.md compares them", also="method solver")
    steps: Optional[Whole] = setting(
        50, "transitions, 1 to T; null: all T",
        also="num_steps sampling_timesteps num_inference_steps num_sampling_steps sample_steps timestep_respacing ddim_steps",
        ge=1)
    eta: Optional[Share] = setting(
        None, "noise of ddim: 0 is deterministic, 1 is DDPM; null: the sampler's own default", also="ddim_eta ddim_sampling_eta")
    spacing: Annotated[str, OneOf(SPACINGS)] = setting("linspace", "which steps are visited")
    variance: Optional[Variance] = setting(None, "of ddpm; null: the process's own")
    clip_x_start: bool = setting(True, "keep every estimate of the image in its range", also="clip_denoised clip_sample")
    dynamic_threshold: Optional[Number] = setting(
        None, "clip at this quantile of the estimate's size, and scale",
        also="thresholding dynamic_thresholding_ratio", ge=0.5, le=1.0)
    rederive_pred_noise: bool = setting(True, "after clipping, the noise follows from the clipped image")
    guidance_scale: Number = setting(
        1.0, "classifier-free guidance; 1: none, 0: unconditional",
        also="cfg cfg_scale guidance cond_scale w guidance_strength", ge=0.0)
    guidance_rescale: Share = setting(0.0, "share of the contrast that guidance is to leave as it was")
    guidance_interval: Annotated[Tuple[Share, Share], BeforeValidator(_tuple)] = setting(
        (0.0, 1.0), "guide only in this part of the process, 0 clean, 1 noise")
    strength: Share = setting(0.6, "share of the steps by which a given image is redrawn")
    invert: bool = setting(False, "bring a given image to its noise level by DDIM inversion, not by noise")
    resamplings: Whole = setting(10, "inpainting: how often each stretch is walked", ge=1)
    jump_length: Whole = setting(10, "inpainting: transitions in a stretch", ge=1)
    seed: Whole = setting(0, "image k of a seed is always the same image", ge=0)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        for name in self._idle(self.sampler):
            owners = [other for other in SAMPLERS if name in options_of(SAMPLERS[other])]
            raise InputError(f"sampling.{name} is {shown(getattr(self, name))}, which {self.sampler} does not take but "
                             f"{', '.join(owners)}, allowed: null")

    def changed(self, changes: Mapping[str, Any]) -> SamplingConfig:
        """It with some of its values changed, and checked again. With another sampler, options of the old one that the new one
        does not take are dropped."""
        sampler = changes.get("sampler", self.sampler)
        dropped = self._idle(sampler) if sampler != self.sampler and sampler in SAMPLERS else []
        return super().changed({**dict.fromkeys(dropped), **changes})

    def _idle(self, sampler: str) -> List[str]:
        """Options that are given and that ``sampler`` does not take."""
        given = [name for name in self.of_samplers if getattr(self, name) is not None]
        return [name for name in given if name not in options_of(SAMPLERS[sampler])] if given else []


class EvaluationConfig(Section):
    """Metrics while training: the averaged weights draw images as ``sampling`` says, and these are compared with the training
    data."""

    section = "evaluation"
    every: Optional[Whole] = setting(
        None, "steps between evaluations, with one after the last; each is saved; null: none",
        also="eval_every eval_interval eval_steps eval_freq fid_every", ge=1)
    images: Whole = setting(2048, "how many are drawn", also="eval_images eval_samples num_eval_samples fid_samples", ge=1)
    metric: Metrics = setting(("fid",), "which numbers, one or several; docs/evaluation.md explains them", also="metrics")
    features: Annotated[str, OneOf(FEATURES)] = setting(
        "inception", "what to compare in; inception needs its file, named by the environment variable DDPM_MS_INCEPTION")


class DistillationConfig(Section):
    """What the network learned from, where ``ddpm-ms distill`` made it; all null elsewhere."""

    section = "distillation"
    teacher: Optional[str] = setting(None, "run directory or checkpoint")
    sha256: Optional[str] = setting(None, "of the teacher's averaged weights")
    steps: Optional[Whole] = setting(None, "of the student, each of which does what two of the teacher's do", ge=1)


class Config(BaseModel):
    """One recipe: a section of each kind, and what it begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    runtime: RuntimeConfig = RuntimeConfig()
    # Not before it is asked for: the section comes with the network, which imports MindSpore.
    model: NetworkConfig = Field(default_factory=lambda: network_section(DEFAULT_NETWORK)(name=DEFAULT_NETWORK))
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distillation: DistillationConfig = DistillationConfig()
    init: Optional[Place] = setting(
        None, "a run directory, or one of its checkpoints, whose averaged weights a new run begins with")


SECTIONS: Dict[str, Type[Section]] = {name: cast(Type[Section], field.annotation) for name, field in Config.model_fields.items()
                                      if name != "init"}
