"""Make torch_files/*: small files as PyTorch writes them, whose numbers `tests/unit/interop/test_torch_files.py` knows.

    pip install torch==2.13.0 "numpy<2"
    python tests/golden/make_torch_files.py
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).parent / "torch_files"
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def numbers() -> dict:
    """0, 1, 2, 3, 4, 5 in every type, (2, 3)."""
    return {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES}


def views() -> dict:
    """Of one storage, 0 to 23."""
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    half = whole.to(torch.bfloat16)
    return {"whole": whole, "turned": whole.T, "part": whole[1:3, 1::2], "column": whole[:, 5], "one": whole[2, 3],
            "none": whole[:0], "flat": whole.view(-1)[7:], "half": half, "half_turned": half.T}


def trainer() -> dict:
    """What trainers keep: a network, its optimizer after one step, plain values."""
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), norm=nn.BatchNorm1d(3)))
    with torch.no_grad():
        for k, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape) + k)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.5)
    sum(p.sum() for p in network.parameters()).backward()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    state = network.state_dict()
    for name, value in weights.items():
        state[name] = value
    optimizer.step()
    return {"step": 7, "model": state, "opt": optimizer.state_dict(), "ema": [weights["first.weight"], (None, True, False)],
            "version": "2.3.4", "text": "größer 😀", "numbers": [-1, 255, 65536, -2**31, 2**40, -2**63, 0.1, float("inf")],
            "parameter": nn.Parameter(torch.ones(2)), "grad": torch.zeros(2, requires_grad=True), "size": torch.Size([3, 4]),
            "again": weights["first.weight"], "nothing": [[], {}, ()]}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for make in (numbers, views, trainer):
        for kind, options in {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}.items():
            torch.save(make(), FOLDER / f"{make.__name__}_{kind}.pt", **options)
    torch.save(trainer(), FOLDER / "protocol4_zip.pt", pickle_protocol=4)
    torch.save(trainer(), FOLDER / "protocol4_legacy.pt", pickle_protocol=4, _use_new_zipfile_serialization=False)
    torch.save(nn.Linear(1, 1), FOLDER / "refused_module.pt")
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), FOLDER / "refused_script.pt")
    torch.save({"wide": torch.zeros(1).expand(1000)}, FOLDER / "refused_expanded.pt")


if __name__ == "__main__":
    main()
