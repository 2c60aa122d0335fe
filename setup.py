"""What pyproject.toml can't express: app/ is installed as gcl_toolkit.app, beside every folder of gcl_toolkit."""

from setuptools import find_packages, setup

app = ["gcl_toolkit.app", *(f"gcl_toolkit.app.{name}" for name in find_packages("app"))]
setup(packages=[*find_packages(include=["gcl_toolkit", "gcl_toolkit.*"]), *app], package_dir={"gcl_toolkit.app": "app"})
