"""What pyproject.toml cannot say: a wheel carries the recipes of configs/, as ddpm_ms/recipes."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies the modules, and the recipes beside them; not into a checkout that is installed as it lies (``pip install -e``)."""

    def run(self):
        """Build."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(Path(__file__).with_name("configs"), Path(self.build_lib, "ddpm_ms", "recipes"), dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.json"))


setup(cmdclass={"build_py": BuildWithRecipes})
