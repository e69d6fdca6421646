"""Opening a model for a verb: which pipeline, device, precision, memory saving, no chatter of libraries."""

from pathlib import Path
from typing import TYPE_CHECKING

from m4v.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from m4v.pipelines.m4v_pipeline import M4VPipeline
    from m4v.pipelines.offload import OffloadLevel
    from m4v.pipelines.wan_pipeline import WanM4VPipeline

    AnyPipeline = M4VPipeline | WanM4VPipeline


def open_pipeline(
    model: str, device_name: str, dtype_name: str, *, offload: "OffloadLevel" = "none", tiling: bool = False
) -> "AnyPipeline":
    """Load a model of either base for the device that the flags name.

    Args:
        model: Folder, bundled name or hub id.
        device_name: Where to compute, or auto.
        dtype_name: Precision, or auto.
        offload: Which networks stay in main memory until they are needed.
        tiling: Whether the autoencoder works on tiles.

    Raises:
        UserError: if there is no such model or device, or they do not go together.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from m4v.checkpoints.resolve import resolve_model
    from m4v.cli.devices import pick_dtype, use_all_cores
    from m4v.core.devices import choose_device
    from m4v.pipelines.offload import check_offload, place

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    use_all_cores()
    device = choose_device(device_name)
    check_offload(offload, device)
    folder = resolve_model(model)
    pipeline = _pipeline_class(folder).from_pretrained(str(folder), dtype=pick_dtype(dtype_name, device))
    place(pipeline, offload, device)
    if tiling:
        pipeline.enable_vae_tiling()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def add_loras(pipeline: "AnyPipeline", files: "Sequence[Path]") -> None:
    """Put LoRA files on a pipeline; all of them act at full strength.

    A file `learned_embeds.safetensors` beside one holds the embeddings of words that it came with, a folder `vae` the
    autoencoder that it was trained with; the last one's counts.

    Raises:
        UserError: if a file is missing or does not fit the model.
    """
    names = [f"lora_{number}" for number in range(len(files))]
    for name, path in zip(names, files, strict=True):
        if not path.exists():
            raise UserError(f"There is no LoRA at {path}; give a .safetensors file or a folder with one to --lora.")
        words = (path if path.is_dir() else path.parent) / "learned_embeds.safetensors"
        if words.is_file():
            from m4v.pipelines.learned_words import load_learned_words

            load_learned_words(pipeline, words)
        folder = path if path.is_dir() else path.parent
        if (folder / "vae").is_dir():
            from m4v.models.vae.causal_video_vae import CausalVideoVAE

            vae = CausalVideoVAE.from_pretrained(folder / "vae")
            pipeline.register_modules(vae=vae.to(pipeline.vae.device, pipeline.vae.dtype))
        weight_name = "pytorch_lora_weights.safetensors" if path.is_dir() else path.name
        pipeline.load_lora_weights(str(folder), weight_name=weight_name, adapter_name=name)
    if len(names) > 1:
        pipeline.set_adapters(names)


def _pipeline_class(folder: Path) -> "type[AnyPipeline]":
    """Tell the two bases apart by the name in the folder's index."""
    from m4v.checkpoints.model_folder import read_model_index

    if str(read_model_index(folder).get("_class_name")).startswith("Wan"):
        from m4v.pipelines.wan_pipeline import WanM4VPipeline

        return WanM4VPipeline
    from m4v.pipelines.m4v_pipeline import M4VPipeline

    return M4VPipeline
