"""Packed columns: which rows belong to which column, and that columns do not touch each other."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.columns import column_velocities
from tests.models.denoiser.builders import history_and_noisy, normal, prompts, random_model

COLUMNS = [
    history_and_noisy((0, 0), seed=1),
    history_and_noisy((0, 1, 1), seed=2),
    history_and_noisy((1,), seed=3),
    history_and_noisy((0, 1, 2, 2), seed=4),
]
TEXT = prompts((3, 5, 1, 2, 4, 5, 3, 2))
TIMESTEPS = torch.linspace(950.0, 20.0, 8, dtype=torch.float64)


def test_row_r_belongs_to_column_r_modulo_columns() -> None:
    seen: list[tuple[Sequence[LevelClip], Tensor, TextConditioning]] = []

    def model(clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        seen.append((clips, timesteps, text))
        return clips[-1].latents

    velocities = column_velocities(model, COLUMNS, TIMESTEPS, TEXT)
    assert [velocity.shape for velocity in velocities] == [clips[-1].latents.shape for clips in COLUMNS]
    for column, (clips, timesteps, text) in enumerate(seen):
        rows = [row for row in range(8) if row % 4 == column]
        assert clips is COLUMNS[column]
        assert torch.equal(timesteps, TIMESTEPS[rows])
        assert torch.equal(text.tokens, TEXT.tokens[rows])
        assert torch.equal(text.mask, TEXT.mask[rows])
        assert torch.equal(text.pooled, TEXT.pooled[rows])


@pytest.mark.parametrize("plan", ["attention-only", "full"])
def test_columns_do_not_see_each_other(plan: str) -> None:
    model = random_model(mixer_plan=plan)
    changed = list(COLUMNS)
    changed[1] = [LevelClip(normal(*clip.latents.shape, seed=99), clip.level) for clip in COLUMNS[1]]
    with torch.no_grad():
        before = column_velocities(model, COLUMNS, TIMESTEPS, TEXT)
        after = column_velocities(model, changed, TIMESTEPS, TEXT)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("columns", "timesteps", "text"),
    [
        ([], TIMESTEPS, TEXT),
        (COLUMNS[:3], TIMESTEPS, TEXT),
        (COLUMNS, TIMESTEPS[:4], TEXT),
        ([*COLUMNS[:3], history_and_noisy((1,), batch=1)], TIMESTEPS, TEXT),
    ],
    ids=["no column", "too many rows", "too few timesteps", "another batch"],
)
def test_rows_that_do_not_match_are_refused(
    columns: list[list[LevelClip]], timesteps: Tensor, text: TextConditioning
) -> None:
    with pytest.raises(UserError, match="one prompt and one timestep per sample and column"):
        column_velocities(random_model(), columns, timesteps, text)
