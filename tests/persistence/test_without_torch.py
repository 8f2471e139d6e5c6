"""What is fitted predicts where torch is not installed, or as good as not."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("check_without_torch.py")
#: Runs the script where nothing of its `ABSENT` can be imported.
BLOCKED = f"""
import runpy, sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

absent = ("torch", "torchvision", "open_clip", "safetensors", "PIL", "matplotlib")
sys.meta_path.insert(0, Blocker())
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_models_predict_without_torch(save_models, fitted_models, tmp_path):
    save_models.save_models(fitted_models, tmp_path / "models")
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(tmp_path / "models")],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert f"{len(fitted_models)} models predict" in found.stdout
