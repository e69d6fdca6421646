"""Making a loaded base ready for one's own captions, with all of its weights trained or adapters only."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from m4v.checkpoints.weights import file_sha256, save_tensors
from m4v.core.errors import UserError, shorten
from m4v.core.files import atomic_path
from m4v.models.text.tokenizer import cut_words
from m4v.models.text.vocabulary import (
    NewWords,
    fit_vocabulary,
    grow_tokenizer,
    new_words,
    train_new_words,
    word_embeddings,
)
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.training.config import RunConfig
from m4v.training.lora import WEIGHTS_NAME, Adapters, add_adapters, save_adapters
from m4v.training.lora_config import LoraConfig
from m4v.training.networks import Networks
from m4v.training.progress import OnProgress, Progress
from m4v.training.wan_networks import WanNetworks

SomeNetworks = TypeVar("SomeNetworks", Networks, WanNetworks)

LORA_FOLDER = "lora"
"""Folder of a run that holds the adapters, and the embeddings of new words, as files of their own."""

_BASE_FILE = "base.json"
_WORDS_FILE = "learned_embeds.safetensors"
_NUM_WORDS_SHOWN = 8
_WHOLE_NETWORK_STAGES = ("match",)
_PHASE = "prepare networks"


def learn_words(
    networks: Networks, captions: Sequence[str], *, max_length: int, seed: int, on_progress: OnProgress
) -> Networks:
    """Give a base a token and an embedding for every word of some captions, and say so.

    Args:
        networks: Changed in place where they are kept.
        captions: All captions of the data.
        max_length: Tokens a caption may have.
        seed: Fixes the new embeddings.
        on_progress: Told which words are new and how many captions are cut.
    """
    words = new_words(networks.tokenizer, captions)
    if words:
        networks = replace(networks, tokenizer=grow_tokenizer(networks.tokenizer, sorted(words)))
        fit_vocabulary(networks.text_encoder, networks.tokenizer, seed)
    for message in _describe_captions(captions, words, networks.tokenizer, max_length):
        on_progress(Progress(phase=_PHASE, done=0, total=0, message=message))
    return networks


def adapt(networks: SomeNetworks, config: LoraConfig, seed: int, num_known: int | None = None) -> SomeNetworks:
    """Freeze a base and put on it what is trained instead: adapters, and the embeddings of new words if there are any.

    Args:
        networks: Changed in place.
        config: Rank, scale, targets.
        seed: Fixes the adapters' first matrices.
        num_known: Words of the base, if its text encoder may learn more.

    Raises:
        UserError: if PEFT is missing or a target is no layer of the denoiser.
    """
    for module in networks.modules.values():
        module.requires_grad_(False)
    add_adapters(networks.transformer, config, seed)
    trainable: dict[str, nn.Module] = {"adapters": Adapters(networks.transformer)}
    if num_known is not None and len(networks.tokenizer) > num_known:
        assert isinstance(networks.text_encoder, T5EncoderModel), type(networks.text_encoder)
        trainable["new_words"] = train_new_words(networks.text_encoder, num_known)
    return replace(networks, trainable=trainable)


def check_lora_stages(config: RunConfig, device_type: str) -> None:
    """Refuse stages that train what adapters are not on.

    Raises:
        UserError: naming the stage.
    """
    for name, _ in config.stages(device_type):
        if name in _WHOLE_NETWORK_STAGES:
            raise UserError(
                f"Stage {name} trains whole networks, but lora.rank is {config.lora.rank}, which freezes them. Run "
                "that stage without LoRA first, and start from what it exports with --init-from."
            )


def require_base(folder: Path | None) -> Path:
    """Give back the base that adapters are to be trained on.

    Raises:
        UserError: if none is named.
    """
    if folder is None:
        raise UserError("LoRA changes a trained model; name one with --init-from, such as --init-from toybox-xs.")
    return folder


def exports_whole_model(run_folder: Path, networks: Networks | WanNetworks, config: LoraConfig) -> bool:
    """Write adapters as files of their own, if they are what is trained; tell whether to write a whole model too.

    Args:
        run_folder: Gets `lora/`.
        networks: Must hold the averaged weights.
        config: The run's settings.

    Raises:
        UserError: if the place cannot be written.
    """
    if networks.trainable:
        write_lora(run_folder / LORA_FOLDER, networks)
    return not networks.trainable or config.merged_export


def write_lora(folder: Path, networks: Networks | WanNetworks) -> None:
    """Write what a run of adapters has trained; networks must hold the averaged weights.

    New words are written as textual inversion files are: one tensor per word, named by it.

    Raises:
        UserError: if the place cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_adapters(folder / WEIGHTS_NAME, networks.transformer)
    words = networks.trainable.get("new_words")
    if isinstance(words, NewWords):
        save_tensors(folder / _WORDS_FILE, word_embeddings(words, networks.tokenizer))


def write_lora_vae(run_folder: Path, vae: CausalVideoVAE) -> None:
    """Write the autoencoder that a run trained beside its adapters, which are of no use with the base's."""
    (run_folder / LORA_FOLDER).mkdir(parents=True, exist_ok=True)
    with atomic_path(run_folder / LORA_FOLDER / "vae") as temporary:
        vae.save_pretrained(temporary)


def restore_words(networks: Networks, tokenizer: PreTrainedTokenizerFast, seed: int) -> Networks:
    """Give a base loaded again the words that its run had added; their embeddings come from the checkpoint."""
    fit_vocabulary(networks.text_encoder, tokenizer, seed)
    return replace(networks, tokenizer=tokenizer)


def note_base(run_folder: Path, base: Path) -> None:
    """Write down which base a run's adapters belong to; checkpoints do not repeat its weights."""
    with atomic_path(run_folder / _BASE_FILE) as temporary:
        content = {"folder": str(base.resolve()), "sha256": _hashes(base)}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def has_base(run_folder: Path) -> bool:
    """Whether a run wrote down a base that its checkpoints do not repeat."""
    return (run_folder / _BASE_FILE).is_file()


def find_base(run_folder: Path, given: Path | None) -> Path:
    """Find the base of a run of adapters that goes on.

    Args:
        run_folder: Where `note_base` wrote.
        given: Where the base lies now, if the user says so.

    Raises:
        UserError: if the base is not there, or its weights are others than those the adapters were trained on.
    """
    path = run_folder / _BASE_FILE
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        folder, hashes = given or Path(noted["folder"]), dict(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say which base the adapters of this run belong to: {error}.") from error
    if not folder.is_dir():
        raise UserError(f"The base {folder} of this run is not there any more; say where it is with --init-from.")
    found = _hashes(folder)
    changed = [name for name in sorted({*hashes, *found}) if hashes.get(name) != found.get(name)]
    if changed:
        raise UserError(
            f"{folder} is not the base that the adapters of this run were trained on; other weights: "
            f"{shorten(changed)}. Say where the former base is with --init-from, or start another run folder."
        )
    return folder


def _hashes(base: Path) -> dict[str, str]:
    files = sorted(base.glob("*/*.safetensors"))
    return {file.relative_to(base).as_posix(): file_sha256(file) for file in files}


def _describe_captions(
    captions: Sequence[str], words: Mapping[str, int], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Iterator[str]:
    """Lines for a user whose captions the model cannot read as they stand.

    Args:
        captions: All captions.
        words: What `new_words` found.
        tokenizer: Knows them already.
        max_length: Tokens a caption may have.
    """
    if words:
        common = sorted(words, key=lambda word: (-words[word], word))
        shown = ", ".join(f"{word} {words[word]}x" for word in common[:_NUM_WORDS_SHOWN])
        rest = f", and {len(words) - _NUM_WORDS_SHOWN} more" if len(words) > _NUM_WORDS_SHOWN else ""
        lone = sum(count == 1 for count in words.values())
        hint = f" {lone} of them are in one caption only, which teaches them little." if lone else ""
        yield f"{len(words)} words of the captions are new to the model and will be learned: {shown}{rest}.{hint}"
    num_cut = sum(bool(cut_words(tokenizer, caption, max_length)) for caption in captions)
    if num_cut:
        yield f"{num_cut} captions are longer than the {max_length} tokens that the model reads; their ends are cut."
