"""A folder is described from its configuration and headers: values of weights are never read."""

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from m4v.checkpoints.tensor_files import TensorSource
from m4v.cli.main import main
from tests.checkpoints.pyramid_flow_files import write_root, write_text_parts
from tests.checkpoints.wan_files import save_pipeline

READERS = (
    (TensorSource, "read"),
    (ModelMixin, "from_pretrained"),
    (PreTrainedModel, "from_pretrained"),
    (safetensors, "safe_open"),
    (safetensors.torch, "load_file"),
    (torch, "load"),
)


@pytest.mark.parametrize("base", ["pyramid-flow", "wan"])
def test_describe_reads_no_values(base: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = tmp_path / "source", tmp_path / "model"
    if base == "pyramid-flow":
        write_text_parts(write_root(source))
    else:
        save_pipeline(source)
    assert main(["convert", base, str(source), str(model)]) == 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    for owner, name in READERS:
        monkeypatch.setattr(owner, name, refuse)
    assert main(["describe", str(model), "--frames", "9", "--height", "64", "--width", "64"]) == 0
    assert "peak on device" in capsys.readouterr().out
