"""Only what pyproject.toml cannot say: the folders at the root install as parts of the `kexport` namespace."""

from setuptools import find_packages, setup

PARTS = ("converter", "graphs", "runtime", "targets")

setup(
    packages=[f"kexport.{name}" for part in PARTS for name in [part, *(f"{part}.{sub}" for sub in find_packages(part))]],
    package_dir={f"kexport.{part}": part for part in PARTS},
    package_data={f"kexport.{part}": ["py.typed"] for part in PARTS},
)
