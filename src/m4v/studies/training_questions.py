"""Questions about training, answered by measuring, as lists of trials (Sec. 4.1, Fig. 8, Appendices A.3, D and D.2).

Arms of a question take equally many steps, see the same clips and differ in one thing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.core.errors import UserError
from m4v.models.denoiser.config import PRESETS, DenoiserConfig, RecompositionConfig
from m4v.recipes.registry import get_recipe
from m4v.recipes.single_stage import only
from m4v.studies.trials import Trial
from m4v.training.config import RunConfig
from m4v.training.flow_config import FlowStageConfig
from m4v.training.optim_config import PerDevice

Question = Literal["conversion", "corruption", "mixing", "ladder"]
Measure = Literal["loss", "drift", "scores"]


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How large a study is.

    Attributes:
        recipe: Recipe with all toybox stages, whose networks and data are used.
        start: Bundled model whose autoencoder every trial uses; None trains one.
        base_steps: Steps of the model that arms start from, images and videos each.
        arm_steps: Steps of every arm.
        match_share: Share of an arm's steps spent on matching where it matches layers first, in [0, 1].
        batch_size: Items per step.
        num_clips: Clips to train on.
        num_seeds: Trials per arm.
        num_prompts: Prompts that videos are made of per model.
        num_batches: Batches of the held-out loss.
        denoiser: Shape of the denoiser where it is not the recipe's.
    """

    recipe: str
    start: str | None
    base_steps: int
    arm_steps: int
    match_share: float
    batch_size: int
    num_clips: int
    num_seeds: int
    num_prompts: int
    num_batches: int
    denoiser: DenoiserConfig | None = None


SIZES: dict[str, StudySize] = {
    "debug": StudySize(
        recipe="debug",
        start=None,
        base_steps=2,
        arm_steps=4,
        match_share=0.5,
        batch_size=4,
        num_clips=8,
        num_seeds=1,
        num_prompts=1,
        num_batches=2,
    ),
    "small": StudySize(
        recipe="toybox-xs",
        start="toybox-xs",
        base_steps=400,
        arm_steps=200,
        match_share=0.25,
        batch_size=16,
        num_clips=256,
        num_seeds=2,
        num_prompts=8,
        num_batches=16,
        denoiser=replace(
            PRESETS["toybox-xs"],
            num_attention_heads=4,
            attention_head_dim=16,
            num_dual_layers=1,
            num_single_layers=2,
            rope_axes_dims=(4, 6, 6),
            recomposition=RecompositionConfig(scan_paths="ae"),
        ),
    ),
    "xs": StudySize(
        recipe="toybox-xs",
        start="toybox-xs",
        base_steps=400,
        arm_steps=200,
        match_share=0.25,
        batch_size=16,
        num_clips=512,
        num_seeds=2,
        num_prompts=8,
        num_batches=16,
    ),
    "gpu": StudySize(
        recipe="toybox-xs",
        start="toybox-xs",
        base_steps=1200,
        arm_steps=600,
        match_share=0.1,
        batch_size=256,
        num_clips=8000,
        num_seeds=3,
        num_prompts=48,
        num_batches=32,
    ),
}
"""`debug`: seconds, for tests. `small`: minutes on a CPU. `xs`: a laptop's hour. `gpu`: minutes on one data-centre GPU,
with recorded graphs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A question as work.

    Attributes:
        question: Which.
        title: What is asked.
        trials: What is trained, in order.
        measures: What every compared trial is measured by.
    """

    question: Question
    title: str
    trials: tuple[Trial, ...]
    measures: tuple[Measure, ...]


def make_plan(question: str, size_name: str, start: Path | None, step_scale: float = 1.0) -> Plan:
    """Spell out a question.

    Args:
        question: Name.
        size_name: One of `SIZES`.
        start: Folder with the autoencoder of the size's bundled model; None if the size trains one.
        step_scale: Multiplies all step counts.

    Raises:
        UserError: if there is no such question or size.
    """
    if question not in _QUESTIONS or size_name not in SIZES:
        raise UserError(
            f"There is no study {question!r} of size {size_name!r}; questions: {', '.join(_QUESTIONS)}; sizes: "
            f"{', '.join(SIZES)}."
        )
    size = SIZES[size_name]
    scaled = replace(
        size,
        base_steps=max(round(size.base_steps * step_scale), 1),
        arm_steps=max(round(size.arm_steps * step_scale), 4),
    )
    return _QUESTIONS[question](_Builder(scaled, start))


class _Builder:
    """Recipes of one size."""

    def __init__(self, size: StudySize, start: Path | None) -> None:
        self.size = size
        self.start = start
        recipe = get_recipe(size.recipe)
        models = recipe.models
        log_every = 1 if size.recipe == "debug" else 10
        self.base = replace(
            recipe,
            models=models if size.denoiser is None else replace(models, denoiser=size.denoiser),
            data=replace(recipe.data, num_clips=_both(size.num_clips), num_images=_both(size.num_clips)),
            t2i=replace(recipe.t2i, batch_size=_both(size.batch_size)),
            match=replace(recipe.match, batch_size=_both(size.batch_size)),
            t2v=replace(recipe.t2v, batch_size=_both(size.batch_size)),
            # Only the last look: what arms are compared by is measured afterwards.
            samples=replace(recipe.samples, prompts=recipe.samples.prompts[:1], every_steps=_both(10**9)),
            saving=replace(recipe.saving, log_every=log_every, export_minutes=1e9, keep_last=1),
        )

    @property
    def seeds(self) -> range:
        return range(self.size.num_seeds)

    def preparation(self) -> tuple[tuple[Trial, ...], str | Path]:
        """What makes the autoencoder, and what later trials start from."""
        if self.start is not None:
            return (), self.start
        return (Trial(name="vae", arm="", config=only(self.base, "vae", "study-vae")),), "vae"

    def stages(self, **steps: int) -> RunConfig:
        """A recipe with these stages only."""
        config = only(self.base, "t2i", "study")
        changes: dict[str, Any] = {name: _shortened(getattr(config, name), count) for name, count in steps.items()}
        return replace(config, **{"t2i": replace(config.t2i, steps=_both(0)), **changes})

    def with_plan(self, config: RunConfig, mixer_plan: str) -> RunConfig:
        models = config.models
        return replace(config, models=replace(models, denoiser=replace(models.denoiser, mixer_plan=mixer_plan)))


def _shortened(stage: FlowStageConfig, num_steps: int) -> FlowStageConfig:
    """A stage of fewer steps, whose rate has time to rise and to fall."""
    warmup = min(stage.optim.warmup_steps, num_steps // 5)
    return replace(stage, steps=_both(num_steps), optim=replace(stage.optim, warmup_steps=warmup))


def _both(count: int) -> PerDevice:
    return PerDevice(cpu=count, accelerator=count)


def _conversion(make: _Builder) -> Plan:
    size = make.size
    prepared, start = make.preparation()
    attention = Trial(
        name="attention",
        arm="",
        config=make.with_plan(make.stages(t2i=size.base_steps, t2v=size.base_steps), "attention-only"),
        start=start,
    )
    num_matched = round(size.arm_steps * size.match_share)
    plain = make.stages(t2v=size.arm_steps)
    matched = make.stages(match=num_matched, t2v=size.arm_steps - num_matched)
    trials = [*prepared, attention]
    for seed in make.seeds:
        arms: dict[str, tuple[RunConfig, str | Path, MambaInitialisation | None]] = {
            "from scratch": (plain, start, None),
            "converted, duality": (plain, "attention", MambaInitialisation(seed=seed)),
            "converted, paper_text": (plain, "attention", MambaInitialisation(map="paper_text", seed=seed)),
            "converted, duality, matched first": (matched, "attention", MambaInitialisation(seed=seed)),
        }
        trials += [
            Trial(name=_name(arm, seed), arm=arm, config=replace(config, seed=seed), start=begin, conversion=conversion)
            for arm, (config, begin, conversion) in arms.items()
        ]
    title = "Attention to Mamba: converted or from scratch, which map, and does matching layers first help?"
    return Plan(question="conversion", title=title, trials=tuple(trials), measures=("loss",))


def _of_videos(make: _Builder, question: Question, title: str, arms: dict[str, dict[str, Any]]) -> Plan:
    """Arms that differ in settings of the video stage, after one common image stage."""
    prepared, start = make.preparation()
    images = Trial(name="images", arm="", config=make.stages(t2i=make.size.base_steps), start=start)
    config = make.stages(t2v=make.size.arm_steps)
    trials = [*prepared, images]
    trials += [
        Trial(
            name=_name(arm, seed),
            arm=arm,
            config=replace(config, seed=seed, t2v=replace(config.t2v, **changes)),
            start="images",
        )
        for seed in make.seeds
        for arm, changes in arms.items()
    ]
    return Plan(question=question, title=title, trials=tuple(trials), measures=("loss", "drift"))


def _corruption(make: _Builder) -> Plan:
    return _of_videos(
        make,
        "corruption",
        "Corruption of the history: growing towards the newest frame, one level for all, or none?",
        {
            "linear": {"corruption_rule": "linear"},
            "constant": {"corruption_rule": "constant"},
            "none": {"corruption": 0.0},
        },
    )


def _mixing(make: _Builder) -> Plan:
    return _of_videos(
        make,
        "mixing",
        "Images to videos: 1:8 or 1:1?",
        {
            "1 image : 8 videos": {"images_per_window": 1, "videos_per_window": 8},
            "1 image : 1 video": {"images_per_window": 1, "videos_per_window": 1},
        },
    )


def _ladder(make: _Builder) -> Plan:
    """Every rung starts from the one before; frames double from short to long, and the rate falls for quality."""
    size = make.size
    prepared, start = make.preparation()
    long = make.base.data.num_frames
    short = (long - 1) // 2 + 1
    rungs: list[tuple[str, RunConfig]] = [("images", make.stages(t2i=size.base_steps))]
    videos = make.stages(t2v=size.arm_steps)
    rungs.append(("short videos", replace(videos, data=replace(videos.data, num_frames=short))))
    rungs.append(("long videos", videos))
    low = replace(videos.t2v, optim=replace(videos.t2v.optim, lr=videos.t2v.optim.lr / 5, hold_share=0.0))
    rungs.append(("quality", replace(videos, t2v=low)))
    if size.recipe != "debug":
        rewarded = get_recipe("toybox-reward")
        stage = replace(rewarded.reward, steps=_both(size.arm_steps // 2), batch_size=_both(size.batch_size))
        rungs.append(("reward", replace(videos, t2v=replace(videos.t2v, steps=_both(0)), reward=stage)))
    trials = [*prepared]
    for seed in make.seeds[:1]:
        before: str | Path = start
        for rung, config in rungs:
            trials.append(Trial(name=_name(rung, seed), arm=rung, config=replace(config, seed=seed), start=before))
            before = trials[-1].name
    title = "The ladder of stages: images, short videos, long videos, quality, reward"
    return Plan(question="ladder", title=title, trials=tuple(trials), measures=("scores",))


def _name(arm: str, seed: int) -> str:
    return f"{arm.replace(', ', '-').replace(' : ', '-to-').replace(' ', '-')}-seed-{seed}"


_QUESTIONS: dict[str, Callable[[_Builder], Plan]] = {
    "conversion": _conversion,
    "corruption": _corruption,
    "mixing": _mixing,
    "ladder": _ladder,
}


def questions() -> Sequence[str]:
    """Names of the questions."""
    return tuple(_QUESTIONS)
