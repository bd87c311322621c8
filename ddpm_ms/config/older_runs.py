"""What runs of earlier versions recorded, said in today's keys. A recipe gets no such help: it is told the new spelling."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from ddpm_ms.config.sections import CUSTOM, DEFAULT_NETWORK, network_section
from ddpm_ms.parts import NETWORKS

# The keys of single networks at a time when a run recorded those of all networks, whatever its own was.
_OF_ALL_NETWORKS = (
    "init_dim", "out_dim", "learned_sinusoidal_cond", "random_fourier_features", "learned_sinusoidal_dim",
    "sinusoidal_pos_emb_theta", "dropout", "attn_dim_head", "attn_heads", "full_attn", "block", "time_embedding", "down", "norm",
    "activation", "tanh_output", "residual")
# The samplers of a time when every run recorded eta and variance, and what each of them made use of.
_TOOK = {"ddpm": "variance", "ddim": "eta", "heun": None, "dpmpp_2m": None, "dpmpp_2m_sde": None, "unipc": None}


def translated(tree: Any) -> Any:
    """The nested dictionaries that a run recorded, in today's keys; what is no mapping stays as it is, to be refused."""
    if not isinstance(tree, dict):
        return tree
    return {name: _SECTIONS[name](dict(values)) if name in _SECTIONS and isinstance(values, dict) else values
            for name, values in tree.items()}


def _model(values: dict[str, Any]) -> dict[str, Any]:
    """One setting was two switches, and its width had another name. What is said of networks from outside is theirs."""
    name = values.get("name", DEFAULT_NETWORK)
    if name not in (*NETWORKS.own, CUSTOM):
        return values
    known = network_section(name).model_fields
    learned, fixed = values.get("learned_sinusoidal_cond"), values.get("random_fourier_features")
    if name == "unet" and not (learned is None and fixed is None):
        values["time_embedding"] = "random_fourier" if fixed else "learned_fourier" if learned else "sinusoidal"
        values["fourier_dim"] = values.get("learned_sinusoidal_dim", known["fourier_dim"].default)
    return {key: value for key, value in values.items() if key in known or key not in _OF_ALL_NETWORKS}


def _diffusion(values: dict[str, Any]) -> dict[str, Any]:
    """The weight of the loss was chosen by three keys, without any of which there was none."""
    if "min_snr_loss_weight" in values:
        gamma, min_snr = values.pop("p2_loss_weight_gamma", None) or None, values.pop("min_snr_loss_weight")
        name = values.get("loss_weight") or ("p2" if gamma else "min_snr" if min_snr else "none")
        values.update(loss_weight=name, p2_loss_weight_gamma=gamma if name == "p2" else None)
    return values


def _training(values: dict[str, Any]) -> dict[str, Any]:
    """Before there was Muon the optimizer was Adam with decoupled weight_decay, whatever its name, and O3 was O2."""
    if values.get("optimizer") != "muon":
        values["optimizer"] = "adam"
    if values.get("amp_level") == "O3":
        values["amp_level"] = "O2"
    return values


def _sampling(values: dict[str, Any]) -> dict[str, Any]:
    """Options were recorded whether the sampler took them or not, and DDIM with eta 0 had a second name."""
    if values.get("sampler") == "euler":
        values.update(sampler="ddim", eta=0.0)
    sampler = values.get("sampler")
    if isinstance(sampler, str) and sampler in _TOOK:
        values.update({name: None for name in ("eta", "variance") if name in values and name != _TOOK[sampler]})
    return values


def _runtime(values: dict[str, Any]) -> dict[str, Any]:
    """Convolutions on CPUs could multiply in bfloat16."""
    values.pop("cpu_math", None)
    return values


_SECTIONS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "model": _model, "diffusion": _diffusion, "training": _training, "sampling": _sampling, "runtime": _runtime}
