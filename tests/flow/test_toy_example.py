"""The teaching script keeps its promise: exact velocities generate the drawings themselves."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "toy_pyramid_flow.py"


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_pyramid_flow", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("steps", [4, 10])
def test_samples_are_drawings(toy: ModuleType, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "trajectory.png"
    worst = toy.main(["--samples", "36", "--steps", str(steps), "--out", str(picture)])
    assert worst < 1e-4
    printed = capsys.readouterr().out
    assert printed.endswith(f"{picture}\n")
    counts = printed.split("36 samples: ")[1].splitlines()[0].split(", ")
    assert [count.split()[0] for count in counts] == list(toy.NAMES)
    assert sum(int(count.split()[1]) for count in counts) == 36
    with Image.open(picture) as image:
        assert image.size == (7 * toy.SIZE * 3, 8 * toy.SIZE * 3)


def test_all_drawings_are_generated_alike(toy: ModuleType) -> None:
    schedule = toy.PyramidSchedule.from_config(toy.PyramidFlowConfig())
    images = toy.draw_images()
    samples, _ = toy.generate(schedule, toy.latent_pyramid(images, 3), num_samples=300, num_steps=10, seed=1)
    nearest = (samples[:, None] - images).square().flatten(2).sum(-1).argmin(1)
    assert nearest.bincount(minlength=6).tolist() == pytest.approx([50] * 6, abs=25)
