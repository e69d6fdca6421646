"""Every stage of the paper in the size of the toybox: the same order, the same proportions, minutes instead of months.

What stands for what: 64 and 128 pixels for 384p and 768p; 17, 25 and 33 frames for 57, 121 and 241; rates twelve times
the paper's, as small networks bear them; the same mixture, corruption and reward weight. Start with

    m4v train toybox-m-vae --run runs/vae
    m4v train toybox-t2i --init-from runs/vae --run runs/1
    m4v train toybox-t2v-short --init-from runs/1 --run runs/2

and so on down the list. The conversion goes `toybox-attention-base`, `m4v convert attention-to-mamba`,
`toybox-convert`.
"""

from dataclasses import replace

from m4v.flow.config import FullSequenceFlowConfig
from m4v.models.denoiser import wan_config
from m4v.models.text.config import TextEncoderConfig
from m4v.recipes import toybox_m
from m4v.training.config import (
    DataConfig,
    FlowStageConfig,
    FullSequenceStageConfig,
    ModelsConfig,
    OptimConfig,
    PerDevice,
    RunConfig,
    SamplesConfig,
    VaeStageConfig,
)
from m4v.training.data_config import SourceConfig
from m4v.training.matching_config import MatchStageConfig
from m4v.training.models_config import WanModelsConfig, WanVaeConfig
from m4v.training.reward_config import RewardStageConfig

PAPER_RATE_FACTOR = 12.0

_WORLD = SourceConfig(name="world", kind="toybox", weight=8)
# Clips of a stream of their own stand for what a video model would make; `m4v data synth` makes real ones.
_SYNTHETIC = SourceConfig(name="synthetic", kind="toybox", stream=1, is_synthetic=True)


def _data(pixels: int, num_frames: int) -> DataConfig:
    return replace(toybox_m.chain().data, height=pixels, width=pixels, num_frames=num_frames)


def _optim(paper_lr: float) -> OptimConfig:
    return OptimConfig(lr=paper_lr * PAPER_RATE_FACTOR, warmup_steps=100, hold_share=0.5)


def _run(name: str, data: DataConfig) -> RunConfig:
    chain = toybox_m.chain()
    return RunConfig(
        name=name,
        data=data,
        models=chain.models,
        samples=SamplesConfig(prompts=toybox_m.PROMPTS, every_steps=PerDevice(cpu=1000, accelerator=1000)),
    )


def _t2v(cpu: int, accelerator: int, paper_lr: float) -> FlowStageConfig:
    return FlowStageConfig(
        steps=PerDevice(cpu=cpu, accelerator=accelerator),
        batch_size=PerDevice(cpu=16, accelerator=512),
        optim=_optim(paper_lr),
    )


def attention_base() -> RunConfig:
    """Stage 0: images, then 17 frames, at 64 px with attention in every block; takes only the autoencoder along."""
    config = _run("toybox-attention-base", _data(64, 17))
    models = replace(config.models, denoiser=replace(config.models.denoiser, mixer_plan="attention-only"))
    images = replace(_t2v(1000, 1000, 1e-4), videos_per_window=0)
    return replace(config, models=models, init_parts=("vae",), t2i=images, t2v=_t2v(2000, 2000, 1e-4))


def convert() -> RunConfig:
    """Stage 0b: adapt the new parameters of a converted model at 64 px."""
    return replace(_run("toybox-convert", _data(64, 17)), t2v=_t2v(1000, 1000, 1e-4))


def match() -> RunConfig:
    """Stage 0b the cheap way: fit new mixers to the attention they replace; name it with --match.teacher."""
    stage = MatchStageConfig(steps=PerDevice(cpu=300, accelerator=500), batch_size=PerDevice(cpu=16, accelerator=256))
    return replace(_run("toybox-match", _data(64, 17)), match=stage)


def t2i() -> RunConfig:
    """Stage 1: text-to-image at 64 px, from a converted model or from an autoencoder alone."""
    stage = replace(_t2v(2000, 2000, 1e-4), videos_per_window=0)
    return replace(_run("toybox-t2i", _data(64, 17)), t2i=stage)


def t2v_short() -> RunConfig:
    """Stage 2: text-to-video of 17 frames at 64 px."""
    return replace(_run("toybox-t2v-short", _data(64, 17)), t2v=_t2v(4000, 4000, 1e-4))


def t2v_long() -> RunConfig:
    """Stage 3: text-to-video of 25 frames at 64 px."""
    return replace(_run("toybox-t2v-long", _data(64, 25)), t2v=_t2v(6000, 6000, 1e-4))


def large() -> RunConfig:
    """Stage 4: 25 frames at 128 px."""
    return replace(_run("toybox-t2v-large", _data(128, 25)), t2v=_t2v(2000, 2000, 5e-5))


def large_long() -> RunConfig:
    """Stage 4 at its greater length: 33 frames at 128 px."""
    return replace(_run("toybox-t2v-large-long", _data(128, 33)), t2v=_t2v(2000, 2000, 5e-5))


def quality() -> RunConfig:
    """Stage 5: quality tuning at 128 px with a synthetic source beside the world's own clips."""
    data = replace(_data(128, 33), sources=(_WORLD, _SYNTHETIC))
    return replace(_run("toybox-quality", data), t2v=_t2v(3000, 3000, 5e-5))


def reward() -> RunConfig:
    """Stage 6: reward learning at 128 px with the bundled toybox rewards."""
    flow = _t2v(500, 1000, 1e-5)
    stage = RewardStageConfig(steps=flow.steps, batch_size=flow.batch_size, optim=flow.optim, weight=0.1, last_units=8)
    data = replace(_data(128, 33), sources=(_WORLD, _SYNTHETIC))
    return replace(_run("toybox-reward", data), reward=stage)


def ablation() -> RunConfig:
    """Tables 3 and 4 (C.2): 25 frames at 64 px from a converted model, the same steps for every variant."""
    return replace(_run("toybox-ablation", _data(64, 25)), t2v=_t2v(2000, 2000, 1e-4))


def _wan_models() -> ModelsConfig:
    return ModelsConfig(
        base="wan",
        wan=WanModelsConfig(
            vae=WanVaeConfig(base_dim=16, z_dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1),
            denoiser=replace(
                wan_config.PRESETS["wan-1.3b"],
                num_attention_heads=6,
                attention_head_dim=32,
                in_channels=8,
                out_channels=8,
                text_dim=128,
                freq_dim=64,
                ffn_dim=512,
                num_layers=6,
                patch_size=(1, 1, 1),
                mixer_plan="full",
                mixer=replace(wan_config.PRESETS["wan-1.3b"].mixer, chunk_size=32),
            ),
            text=TextEncoderConfig.toybox_xs(),
            text_length=32,
        ),
    )


def _clips(cpu: int, accelerator: int, paper_lr: float, shift: float) -> FullSequenceStageConfig:
    return FullSequenceStageConfig(
        steps=PerDevice(cpu=cpu, accelerator=accelerator),
        batch_size=PerDevice(cpu=8, accelerator=128),
        optim=_optim(paper_lr),
        train_text=True,
        flow=FullSequenceFlowConfig(shift=shift),
    )


def wan_short() -> RunConfig:
    """Wan base, for 480p: its autoencoder, then images and 9 frames of the smallest world at 64 px."""
    data = DataConfig(
        tier="xs", num_clips=PerDevice(cpu=4000, accelerator=32_000), num_frames=9, height=64, width=64, fps=8.0
    )
    return RunConfig(
        name="toybox-wan-short",
        data=data,
        models=_wan_models(),
        vae=VaeStageConfig(
            steps=PerDevice(cpu=3000, accelerator=8000),
            batch_size=PerDevice(cpu=2, accelerator=64),
            optim=OptimConfig(lr=1e-3, weight_decay=0.0, hold_share=0.3, final_lr_share=0.02),
        ),
        clips=_clips(4000, 6000, 1e-4, 3.0),
        samples=SamplesConfig(
            prompts=("a red ball jumps on the grass", "a blue cube stays still on the sand"),
            every_steps=PerDevice(cpu=1000, accelerator=1000),
            first_steps=12,
        ),
    )


def wan_long() -> RunConfig:
    """Wan base, for 720p: 17 frames from the shorter model, at half the rate."""
    short = wan_short()
    return replace(
        short,
        name="toybox-wan-long",
        data=replace(short.data, num_frames=17),
        vae=replace(short.vae, steps=PerDevice(cpu=0, accelerator=0)),
        clips=_clips(2000, 3500, 5e-5, 5.0),
    )
