"""The plan of the house: who may import whom."""

import ast
import sys
from pathlib import Path

import pytest

import ddpm_ms

PACKAGE = Path(__file__).parents[2] / "ddpm_ms"
LEAVES = {"digest", "errors", "version", "parts", "progress"}
# Everything that each part may import from the package itself.
ALLOWED = {
    "digest": set(), "errors": set(), "version": set(), "progress": set(), "rng": set(), "parts": {"errors"},
    "config": LEAVES,
    "visual": LEAVES,
    "native": LEAVES,
    "runtime": LEAVES | {"config", "native"},
    "ops": LEAVES | {"runtime"},
    "models": LEAVES | {"config", "ops"},
    "diffusion": LEAVES | {"config"},
    "sampling": LEAVES | {"config", "rng", "diffusion"},
    "gaussian_diffusion": LEAVES | {"config", "runtime", "diffusion", "sampling"},
    "distillation": LEAVES | {"config", "diffusion", "sampling", "gaussian_diffusion"},
    "data": LEAVES | {"config", "rng"},
    "evaluation": LEAVES | {"config", "data", "diffusion", "gaussian_diffusion", "interop", "models", "ops", "runtime",
                            "sampling", "visual"},
    "interop": LEAVES | {"config", "diffusion"},
    "conversion": LEAVES | {"checkpoints", "config", "gaussian_diffusion", "interop", "models", "runtime", "training"},
    "costs": LEAVES | {"config", "ops"},
    "launch": LEAVES | {"config", "runtime"},
    "benchmark": LEAVES | {"config", "runtime", "data", "gaussian_diffusion", "models", "training", "visual"},
    "checkpoints": LEAVES | {"config", "runtime", "gaussian_diffusion", "models", "visual"},
    "export": LEAVES | {"checkpoints", "config", "diffusion", "gaussian_diffusion", "interop", "models", "runtime"},
    "training": LEAVES | {"checkpoints", "config", "rng", "runtime", "visual", "data", "distillation", "gaussian_diffusion",
                          "evaluation", "models", "ops"},
}
STDLIB = getattr(sys, "stdlib_module_names", set())  # from Python 3.10 on
FREE = {"cli", "__init__", "__main__"}
OUTSIDE = {"config": {"yaml", "pydantic", "pydantic_core", "annotated_types"}, "digest": set(), "errors": set(), "rng": {"numpy"},
           "parts": set(), "native": set(), "launch": set(), "visual": {"numpy", "PIL", "matplotlib", "jinja2", "safetensors"}}


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "ddpm_ms":
                yield from (f"ddpm_ms.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_part_imports_only_what_the_plan_allows(path):
    here = part(path)
    if here in FREE:
        return
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "ddpm_ms":
            assert rest[0] == here or rest[0] in ALLOWED[here], f"{path} imports {name}"
        elif here in OUTSIDE and STDLIB and top not in OUTSIDE[here]:
            assert top in STDLIB, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_runtime_touches_the_environment_and_the_device(path):
    if part(path) in ("runtime", "launch"):  # launch makes the environment of other processes
        return
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"environ", "getenv", "set_device", "set_context", "set_seed", "get_rank"}, path


def test_type_checkers_read_the_same_public_names_as_are_imported_late():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block, = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    read = {alias.asname: line.module for line in block.body for alias in line.names}  # without "as" a name is not exported
    assert read == ddpm_ms._PUBLIC
