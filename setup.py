"""What pyproject.toml cannot say: `conf/` lies beside `src/`, and in a wheel inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies `conf/` to `threeshnet/conf`.  An editable installation reads it where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib, "threeshnet", "conf"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConf})
