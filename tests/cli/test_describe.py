"""`m4v describe`: figures on standard output, friendly refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from m4v.cli.main import main


def _report(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["describe", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_table_4_stands_beside_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--paper-table", "4"]) == 0
    printed = capsys.readouterr().out
    for figure in ("1,972,059,200", "2.04B", "2.00B", "2.21B", "Full+Temp-Branch", "33.81", "33.84", "55.18"):
        assert figure in printed
    for word in (
        "last unit",
        "finest level",
        "all pairs",
        "2 per multiply-add",
        "128 tokens",
        "M Mamba layer",
        "16.56",
    ):
        assert word in " ".join(printed.split())


def test_table_2_stands_beside_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--paper-table", "2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for figure in ("M4V (PyramidFlow)", " 812", " 613", "1700", "1210", "50.7", "652.3", "125.0"):
        assert figure in printed
    for word in ("guidance", "Not comparable", "names neither the GPU"):
        assert word in printed


@pytest.mark.parametrize(("number", "rows"), [(2, 7), (4, 7)])
def test_tables_as_json(number: int, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(capsys, "--paper-table", str(number))
    assert report["table"] == number
    assert len(report["rows"]) == rows
    assert report["convention"]
    assert report["remarks"]


@pytest.mark.parametrize(("number", "rows"), [(1, 14), (3, 5), (5, 4), (7, 2)])
def test_printed_scores_are_recomputed_and_not_compared_with_ours(
    number: int, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(capsys, "--paper-table", str(number))
    assert len(report["rows"]) == rows
    assert "No scores of ours" in report["remarks"][-1]


def test_table_4_knows_what_a_2_only_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(capsys, "--paper-table", "4")
    scan, rows = report["dual_stream_scan"], {row["name"]: row for row in report["rows"]}
    layers = {cost["letter"]: cost["tflops"][1] for cost in report["layers"]}
    assert scan["parameters"] == 2_269_878_384
    assert scan["tflops"][1] == pytest.approx(24 * layers["M"] + 16 * layers["T"])
    assert scan["tflops"][1] < rows["Full+Temp-Branch"]["tflops"][1]
    assert scan["paper_tflops"] == 22.416


@pytest.mark.parametrize(
    ("words", "total", "tokens"),
    [
        (["toybox-xs"], 5_753_200, [52, 76, 184]),
        (["wan-1.3b"], 1_418_996_800, [32_760]),
        (["wan-14b", "--height", "720", "--width", "1280"], 14_288_491_584, [75_600]),
    ],
)
def test_json_has_the_stable_keys(
    words: list[str], total: int, tokens: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(capsys, *words)
    assert {"parameters", "tokens", "flops", "memory_bytes"} <= set(report)
    assert report["parameters"]["total"] == total
    assert report["tokens"][-1] == tokens
    assert {"weights", "activations", "parts", "peak"} <= set(report["memory_bytes"])


def test_a_plan_changes_any_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "wan-1.3b", "--plan", "full", "--frames", "5"]) == 0
    printed = capsys.readouterr().out
    assert "1,703,772,640" in printed
    assert "offload sequential" in printed
    report = _report(capsys, "toybox-xs", "--plan", "attention-only")
    assert report["parameters"]["total"] == 5_139_984


def test_a_scan_in_the_dual_blocks_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    attention, scan = (_report(capsys, "pyramid-2b", "--dual-mixer", kind) for kind in ("attention", "mm_dim"))
    assert attention["parameters"]["dual_blocks"] == 1_062_146_048
    assert scan["parameters"]["dual_blocks"] == 1_122_372_784
    # Linear cost: cheaper on the longest call, and less than twice the cost for twice the tokens or so.
    assert scan["flops"][-1][-1] < 0.75 * attention["flops"][-1][-1]
    assert scan["flops"][-1][-1] / scan["flops"][0][-1] < scan["tokens"][-1][-1] / scan["tokens"][0][-1]
    assert scan["memory_bytes"]["activations"] > 0


def test_a_network_without_dual_blocks_takes_no_dual_mixer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "wan-1.3b", "--dual-mixer", "mm_dim"]) == 2
    assert "wan-1.3b has no dual-stream blocks" in capsys.readouterr().err


def test_the_bundled_folder_describes_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from m4v.checkpoints.bundled import bundled_models

    assert main(["describe", str(bundled_models()["toybox-xs"])]) == 0
    printed = capsys.readouterr().out
    assert "17 frames of 64x64" in printed
    assert "4/4/4 steps per level" in printed


@pytest.mark.parametrize("pipeline", ["WanM4VPipeline", "WanPipeline"])
def test_a_wan_folder_describes_itself(pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder need not be runnable: its configurations, and headers of its weights, are all that is read."""
    folder = write_wan_folder(tmp_path / "model", pipeline)
    assert main(["describe", str(folder), "--frames", "9", "--height", "64", "--width", "64"]) == 0
    printed = capsys.readouterr().out
    assert "48 video tokens" in printed
    assert "50 steps" in printed


def write_wan_folder(folder: Path, pipeline: str) -> Path:
    """Write a tiny Wan model in diffusers layout, ours or stock."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from m4v.models.denoiser.wan import WanM4VTransformer3DModel
    from m4v.models.denoiser.wan_config import wan_preset

    arguments = wan_preset("wan-debug")
    library, network = "m4v.models.denoiser.wan", WanM4VTransformer3DModel
    if pipeline == "WanPipeline":
        library, network = "diffusers", WanTransformer3DModel
        ours = ("mixer_plan", "mixer", "recomposition", "temporal_branch", "text_path")
        arguments = {key: value for key, value in arguments.items() if key not in ours}
    network(**arguments).save_pretrained(folder / "transformer")
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "vae")
    text = UMT5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    for part, file in (("tokenizer", "tokenizer_config.json"), ("tokenizer", "tokenizer.json")):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / file).write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    index = {
        "_class_name": pipeline,
        "transformer": [library, network.__name__],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paper-table", "9"], "the tables that can be computed are 1, 2, 3, 4, 5, 7"),
        (["nowhere"], "give a model folder or one of debug, toybox-xs, toybox-m, pyramid-2b, wan-1.3b, wan-14b"),
        (["toybox-xs", "--height", "72"], "use 64 or 96"),
        (["toybox-xs", "--height", "8"], "height is 8, but 3 pyramid levels need a multiple of 32; use 32"),
        (["toybox-xs", "--frames", "18"], "use 17 or 21"),
        (["toybox-xs", "--plan", "half"], "mixer_plan is 'half'; expected one of attention-only, full"),
        (["wan-1.3b", "--plan", "parallel"], 'mixer_plan has "parallel" layers'),
        (["wan-1.3b", "--width", "830"], "use 816 or 832"),
        (["wan-1.3b", "--frames", "80"], "use 77 or 81"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *words]) == 2
    assert message in capsys.readouterr().err
