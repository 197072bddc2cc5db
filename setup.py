"""The wheel's packages: what is `configs/` in the repository is `apanet_jax/configs` there."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["apanet_jax*"]), "apanet_jax.configs"],
    package_dir={"apanet_jax.configs": "configs"},
)
