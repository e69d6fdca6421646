"""Whether the autoencoder that a run starts from can give back the clips it is to be trained on."""

from itertools import islice

from m4v.data.source import ClipSource, UnusableClip
from m4v.training.clip_pool import stack_clips
from m4v.training.networks import Networks
from m4v.training.progress import Progress
from m4v.training.sources import training_clips
from m4v.training.vae_objective import reconstruction_psnr
from m4v.training.workbench import Workbench

POOR_PSNR = 22.0
"""Round trips below this many dB have lost the shapes of their clips, and no denoiser can draw them."""

_PHASE = "round trips"
_NUM_CLIPS = 16


def skips_vae_stage(bench: Workbench) -> bool:
    """Measure the autoencoder of the initial model on some clips, say the result, and tell whether it is good enough.

    Only small models are measured, and only on folders of videos: those of large bases have seen real videos, and
    exports link them instead of repeating them. Every rank must call this.

    Args:
        bench: A new run, before its first stage.

    Returns:
        Whether a stage that would train the autoencoder is to be left out, as `vae.good_psnr` has it.
    """
    good = bench.config.vae.good_psnr
    if not bench.starts_whole:
        return False
    if not isinstance(bench.parts, Networks) or bench.parts.base is not None:
        return good > 0
    if bench.config.data.is_rendered or bench.config.data.buckets:
        return False
    opened = bench.opened()
    if all(source.clips is None for source in opened):
        return False
    measured = bench.parallel.from_main(_measure(bench, training_clips(opened, bench.num_clips)))
    if measured is None:
        return False
    will_train = bool(bench.config.vae.steps.on(bench.device.type))
    skips = will_train and 0 < good <= measured
    line = f"Autoencoder of the initial model: round trips of your clips have {measured:.1f} dB"
    if skips:
        line += "; it needs no training."
    elif will_train:
        line += "; it is trained on them first."
    elif measured < POOR_PSNR:
        line += (
            f". Warning: below {POOR_PSNR:.0f} dB shapes are lost, and the denoiser cannot draw them. Train the "
            "autoencoder on them first: the recipe finetune does, with --vae.steps above 0."
        )
    else:
        line += "."
    bench.on_progress(Progress(phase=_PHASE, done=0, total=0, message=line))
    return skips


def _measure(bench: Workbench, source: ClipSource) -> float | None:
    """Round-trip PSNR in dB over clips spread evenly over a source; None if none can be read."""
    step = max(1, len(source) // _NUM_CLIPS)
    clips = []
    for index in islice(range(0, len(source), step), _NUM_CLIPS):
        try:
            clips.append(source.clip(index))
        except UnusableClip:  # the stages count what is dropped
            continue
    if not clips:
        return None
    return reconstruction_psnr(bench.parts.vae, stack_clips(clips), use_bf16=bench.encode_in_bf16)["psnr"]
