"""Builds fa-doctor.pyz: fa-doctor and what it needs in one file that any python3 from 3.10 on can run.

    python deploy/zipapp/build.py [--output fa-doctor.pyz]

The file is run as it is: nothing is unpacked, so that it works where nothing can be written (a read-only root, no
home). That is why it is a plain zip made by the standard library's zipapp, and not a shiv or pex, which unpack
themselves into a cache folder before they start. Everything in it is pure Python, so one file serves all versions.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# requests' helper for guessing encodings comes as a wheel for one Python version unless told otherwise.
PURE = ["--no-binary", "charset-normalizer"]


def main() -> None:
    """Installs the project into a folder, checks that nothing in it is machine code, and packs it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, default=ROOT / "dist" / "fa-doctor.pyz")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "app"
        # tomli reads TOML on 3.10, which has no tomllib; the file must run there whatever Python builds it.
        # Of the wheels for several platforms the pure one is asked for.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        installed = subprocess.run([*pip, "--target", str(folder), *PURE, str(ROOT), "tomli"], check=False)
        if installed.returncode != 0:
            sys.exit("build.py: nothing was built: pip could not fetch what fa-doctor needs, and says why above")
        for path in [*folder.rglob("*.so"), *folder.rglob("*.pyd")]:
            path.unlink()  # accelerators that have a pure Python twin beside them; tested by running without
        shutil.rmtree(folder / "bin", ignore_errors=True)
        for cache in folder.rglob("__pycache__"):
            shutil.rmtree(cache)
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        (folder / "__main__.py").write_text("from fa_doctor.__main__ import main\n\nmain()\n")
        zipapp.create_archive(folder, chosen.output, interpreter="/usr/bin/env python3", compressed=True)
    print(f"{chosen.output} ({chosen.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
