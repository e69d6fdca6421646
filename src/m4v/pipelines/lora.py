"""LoRA on the pyramid pipeline through PEFT, with the methods that diffusers' own pipelines have."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LoraBaseMixin, _fetch_state_dict
from diffusers.utils.import_utils import is_peft_available
from safetensors import SafetensorError
from torch import Tensor, nn

from m4v.checkpoints.lora_names import denoiser_lora
from m4v.core.errors import UserError

_TRANSFORMER = "transformer"
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")


class M4VLoraLoaderMixin(LoraBaseMixin):
    """Loads, mixes, fuses and saves LoRA weights of the denoiser.

    `set_adapters`, `disable_lora`, `enable_lora`, `delete_adapters`, `unload_lora_weights` and the rest are diffusers'.

    Example:
        >>> pipeline.load_lora_weights("claymation.safetensors", adapter_name="clay")
        >>> pipeline.set_adapters("clay", 0.8)
        >>> pipeline.fuse_lora()
    """

    _lora_loadable_modules = [_TRANSFORMER]  # noqa: RUF012 - the library reads a list here
    transformer_name = _TRANSFORMER
    transformer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | PathLike[str] | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Put a LoRA on the denoiser.

        Args:
            pretrained_model_name_or_path_or_dict: A safetensors file, a folder or hub repository with one (name it in
                `weight_name` if there are several), or the tensors. Module names may be ours or Pyramid-Flow's.
            adapter_name: What to call it; default: the next free name.
            hotswap: Replace the adapter of that name in place.
            kwargs: `weight_name`, and what diffusers takes for hub repositories.

        Raises:
            UserError: if PEFT is missing, the file cannot be read, or the LoRA does not fit this denoiser.
        """
        _require_peft()
        tensors, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **kwargs)
        denoiser: Any = self.transformer
        linears = {name for name, module in denoiser.named_modules() if _is_linear(module)}
        sizes = denoiser.config["num_dual_layers"], denoiser.config["num_single_layers"]
        tensors, metadata = denoiser_lora(tensors, metadata, linears, *sizes)
        denoiser.load_lora_adapter(
            tensors,
            prefix=None,
            adapter_name=adapter_name,
            metadata=metadata,
            hotswap=hotswap,
            low_cpu_mem_usage=True,
            _pipeline=self,
        )

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | PathLike[str] | Mapping[str, Tensor], **kwargs: Any
    ) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """Read the tensors of a LoRA and the settings stored with them, under the names in the file.

        Raises:
            UserError: if the file is missing, damaged or pickled.
        """
        source: Any = pretrained_model_name_or_path_or_dict
        weight_name = kwargs.pop("weight_name", None)
        options = {name: kwargs.pop(name, None) for name in _HUB_OPTIONS}
        if kwargs:
            raise UserError(f"load_lora_weights has no option {', '.join(kwargs)}.")
        if isinstance(source, Mapping):
            source = dict(source)
        elif Path(source).is_file():
            weight_name = Path(source).name
            source = str(Path(source).parent)
        if weight_name is not None and not weight_name.endswith(".safetensors"):
            raise UserError(
                f"{weight_name} is not a safetensors file. Other formats can run code when opened; convert it first."
            )
        try:
            tensors, metadata = _fetch_state_dict(
                source,
                weight_name=weight_name,
                use_safetensors=True,
                allow_pickle=False,
                user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
                **options,
            )
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"No LoRA can be read from {source}: {error}") from error
        return tensors, metadata

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | PathLike[str],
        transformer_lora_layers: Mapping[str, nn.Module | Tensor],
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[..., None] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write LoRA weights as one safetensors file.

        Args:
            save_directory: The folder.
            transformer_lora_layers: What `peft.get_peft_model_state_dict(pipeline.transformer)` returns.
            is_main_process: Whether this process writes, where several run.
            weight_name: File name; default: diffusers' own.
            save_function: Replaces the function that writes.
            safe_serialization: Must stay on.
            transformer_lora_adapter_metadata: The adapter's `LoraConfig.to_dict()`, so that rank and alpha are kept.

        Raises:
            UserError: if another format than safetensors is asked for.
        """
        if not safe_serialization:
            raise UserError("safe_serialization is off; LoRA weights are written as safetensors only.")
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers={_TRANSFORMER: dict(transformer_lora_layers)},
            lora_metadata={_TRANSFORMER: transformer_lora_adapter_metadata},
            is_main_process=is_main_process,
            weight_name=weight_name,
            save_function=save_function,
            safe_serialization=True,
        )

    def fuse_lora(
        self,
        components: Sequence[str] = (_TRANSFORMER,),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the active adapters to the weights they change; arguments are diffusers'."""
        super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: Sequence[str] = (_TRANSFORMER,), **kwargs: Any) -> None:
        """Take fused adapters out of the weights again."""
        super().unfuse_lora(list(components), **kwargs)


def _is_linear(module: nn.Module) -> bool:
    """Linear layers, those that carry an adapter already included."""
    return isinstance(module, nn.Linear) or isinstance(getattr(module, "base_layer", None), nn.Linear)


def _require_peft() -> None:
    if not is_peft_available():
        raise UserError('LoRA needs the package peft. Install it with: pip install "m4v[lora]"')
