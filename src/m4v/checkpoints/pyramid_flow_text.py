"""Text encoders and tokenizers of a Pyramid-Flow checkpoint, brought along as they are."""

from pathlib import Path

from m4v.checkpoints.converted_folder import link_tree
from m4v.checkpoints.json_tables import read_json
from m4v.checkpoints.model_folder import M4V_COMPONENTS
from m4v.checkpoints.tensor_files import open_tensors, write_shards
from m4v.core.files import existing_ancestor

_TEXT_CLASSES = {
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "T5EncoderModel",
    "tokenizer": "CLIPTokenizer",
    "tokenizer_2": "T5TokenizerFast",
}
ENCODERS = ("text_encoder", "text_encoder_2")
_WEIGHT_ENDINGS = (".bin", ".pt", ".pth", ".msgpack", ".h5", ".ckpt", ".onnx", ".ot", ".safetensors", ".index.json")


def text_class(part: str, folder: Path) -> str:
    """Class of a text part: the released one, but a tokenizer may name its own."""
    config = folder / "tokenizer_config.json"
    named = read_json(config).get("tokenizer_class") if config.is_file() else None
    return str(named) if named in M4V_COMPONENTS[part].class_names else _TEXT_CLASSES[part]


def bring_text_part(source: Path, target: Path) -> None:
    """Bring a text encoder or tokenizer into a model folder: as it is, but with its weights as safetensors."""
    names = [path.name for path in source.iterdir()]
    weights = [name for name in names if name.endswith(_WEIGHT_ENDINGS)]
    if not weights:
        link_tree(source, target)
        return
    tensors = open_tensors(source)
    kept = {path.name for path in (*tensors.files, tensors.index_path) if path} if tensors.is_safetensors else set()
    link_tree(source, target, skip=set(weights) - kept)
    if not tensors.is_safetensors:
        write_shards(target, tensors.specs, tensors.read, stem="model")


def copied_bytes(source: Path, target: Path) -> int:
    """Bytes that an encoder's weights take on the disk of `target`: none if its files can be linked."""
    tensors = open_tensors(source)
    is_linked = tensors.is_safetensors and existing_ancestor(target).stat().st_dev == source.stat().st_dev
    return 0 if is_linked else tensors.nbytes
