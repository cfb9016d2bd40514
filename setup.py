"""What pyproject.toml cannot say: the wheel holds `configs/` within the package."""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["dfgan_jax*"]), "dfgan_jax.configs"],
    package_dir={"dfgan_jax.configs": "configs"})
