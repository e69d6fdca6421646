"""What two ranks do in `test_parallel.py`, in one launch: `torchrun --nproc-per-node 2 parallel_worker.py FOLDER`."""

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor

from m4v.checkpoints import sharded as sharded_module
from m4v.checkpoints.run_folder import RunFolder, open_step_folder
from m4v.checkpoints.weights import save_tensors
from m4v.core.errors import UserError
from m4v.flow.schedule import PyramidSchedule
from m4v.models.text.tokenizer import build_tokenizer
from m4v.recipes.debug import debug
from m4v.training.clip_pool import ClipPool
from m4v.training.config import SavingConfig
from m4v.training.ema import named_parameters
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.guard import Guard
from m4v.training.guard_config import GuardConfig
from m4v.training.latent_bank import build_bank
from m4v.training.loop import train_step
from m4v.training.networks import build_networks
from m4v.training.optim_config import OptimConfig
from m4v.training.parallel import Parallel, parallel_session
from m4v.training.parallel_config import ParallelConfig
from m4v.training.saving import Saver
from m4v.training.sharding import ShardedNetworks, gather_parameters, recompute_activations
from m4v.training.state import TrainState
from m4v.training.vae_objective import VaeObjective

FIRST = ["sharded", "replicated", "context"]
"""Variants of every test run; the others are slow."""

WORDS = ("one", "two", "three", "four", "five", "six")
OPTIM = OptimConfig(warmup_steps=0, lr=1e-2)
VARIANTS = {
    "sharded": ParallelConfig(),
    "replicated": ParallelConfig(shard=False),
    "accumulated": ParallelConfig(accumulate=2),
    "often reduced": ParallelConfig(accumulate=2, reduce_once=False),
    "recomputed": ParallelConfig(checkpoint_share=0.5),
    "context": ParallelConfig(context=2),
    "context, replicated": ParallelConfig(context=2, shard=False),
    "context, recomputed": ParallelConfig(context=2, checkpoint_share=1.0),
}


class Bench:
    """Debug networks on a bank of random latents, with weights that are nowhere zero."""

    def __init__(
        self, parallel: Parallel, *, batch_size: int = 8, in_bf16: bool = False, images_only: bool = False
    ) -> None:
        torch.manual_seed(1)
        networks = build_networks(debug().models, build_tokenizer(["square", *WORDS]), seed=0)
        modules = {"transformer": networks.transformer, "text_encoder": networks.text_encoder}
        with torch.no_grad():
            for value in named_parameters(modules).values():
                value.add_(0.02 * torch.randn_like(value))
        latents = torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        bank = build_bank(latents, [(f"square {word}", "square") for word in WORDS], networks.tokenizer, max_length=6)
        self.parallel = parallel
        self.sharded = ShardedNetworks(parallel)
        self.num_recomputed = recompute_activations(networks.transformer, parallel.config.checkpoint_share)
        self.sharded.add(modules, in_bf16=in_bf16)
        self.sharded.share_sequences(networks.transformer)
        self.networks = networks
        self.state = TrainState(modules, OPTIM, 0, self.sharded)
        self.objective = PyramidFlowObjective(
            networks.transformer,
            networks.text_encoder,
            bank,
            PyramidSchedule.from_config(debug().models.flow),
            replace(debug().t2v, images_per_window=1, videos_per_window=0) if images_only else debug().t2v,
            stage="t2v",
            batch_size=batch_size,
            seed=3,
            use_bf16=in_bf16,
            share=parallel.share,
        )

    def train(self, num_steps: int) -> list[float]:
        """Take steps; the gradient norms."""
        norms = []
        for _ in range(num_steps):
            values = train_step(self.objective, self.state, 8, self.objective.batch(self.state.step))
            norms.append(float(values[0]["grad_norm"]))
        return norms

    def loss(self) -> float:
        """Loss of this rank's rows in the first step."""
        with torch.no_grad():
            terms = self.objective.terms(self.objective.batch(0), 0)
            return sum(float(term.loss) * term.weight for term in terms)

    def weights(self) -> dict[str, torch.Tensor]:
        """Whole weights, averages and moments."""
        found = {}
        for part, tensors in self.state.tensors().items():
            for name, value in tensors.items():
                found[f"{part}/{name}"] = (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        return found

    def metadata(self) -> dict:
        return {"stage": "t2v", **self.state.counters()}


def vae_weights(parallel: Parallel) -> dict[str, torch.Tensor]:
    """Two steps of the autoencoder, whose posterior draws noise inside the network."""
    networks = build_networks(debug().models, build_tokenizer(["square"]), seed=0)
    frames = torch.randint(0, 256, (4, 9, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pool = ClipPool(frames, tuple(("square",) for _ in range(4)), fps=8.0)
    # Where gradients all but vanish, AdamW with a tiny eps makes steps of their rounding errors.
    optim = replace(OPTIM, eps=1e-4)
    state = TrainState({"vae": networks.vae}, optim, 0, ShardedNetworks(parallel))
    objective = VaeObjective(
        networks.vae, pool, debug().vae, batch_size=4, seed=0, use_bf16=False, share=parallel.share
    )
    for _ in range(2):
        train_step(objective, state, 8, objective.batch(state.step))
    return {name: value.detach().clone() for name, value in networks.vae.named_parameters()}


def check_steps(parallel: Parallel, folder: Path, facts: dict, variants: list[str]) -> None:
    for name in variants:
        config = VARIANTS[name]
        bench = Bench(replace(parallel, config=config, sequence=parallel.sequence if config.context > 1 else None))
        norms = bench.train(2)
        weights = bench.weights()
        is_split = any(isinstance(value, DTensor) for value in named_parameters(bench.state.modules).values())
        facts[name] = {"norms": norms, "is_split": is_split, "recomputed": bench.num_recomputed}
        if parallel.is_main:
            save_tensors(folder / f"{name}.safetensors", weights)


def check_batches(parallel: Parallel, folder: Path, facts: dict) -> None:
    small = Bench(parallel, batch_size=4)
    small.train(2)
    weights = small.weights()
    half = Bench(parallel, in_bf16=True)
    facts["bf16"] = {"norms": half.train(2), "types": sorted({str(value.dtype) for value in half.weights().values()})}
    whole = gather_parameters(half.networks.transformer, keep=True)
    facts["bf16"]["whole"] = sorted(
        name.rsplit(".", 2)[-1]
        for name, value in half.networks.transformer.named_parameters()
        if not isinstance(value, DTensor)
    )
    assert all(value.dtype == torch.float32 for value in whole.values())
    autoencoder = vae_weights(parallel)
    if parallel.is_main:
        save_tensors(folder / "columns apart.safetensors", weights)
        save_tensors(folder / "autoencoder.safetensors", autoencoder)


def check_checkpoints(parallel: Parallel, folder: Path, facts: dict) -> None:
    straight = Bench(parallel)
    straight.train(4)
    expected = straight.weights()
    first = Bench(parallel)
    first.train(2)
    saved = first.weights()
    run = RunFolder(folder / "run")
    saver = Saver(run, SavingConfig(keep_last=2), parallel)
    saver.save(2, first.state.tensors(), first.metadata())
    first.train(1)  # while the checkpoint is being written, which must hold step 2 all the same
    saver.finish()
    if parallel.is_main:
        save_tensors(folder / "saved at 2.safetensors", saved)
    second = Bench(parallel)
    parts, metadata = open_step_folder(run.step_path(2))
    read = []
    real_read = HuggingFaceStorageReader._process_read_request

    def note(self, file, request, planner):
        read.append(request.lengths.numel())
        real_read(self, file, request, planner)

    HuggingFaceStorageReader._process_read_request = note
    second.state.load(parts, metadata)
    HuggingFaceStorageReader._process_read_request = real_read
    facts["share of the checkpoint read"] = sum(read) / sum(
        value.numel() for part in parts.values() for value in part.values()
    )
    facts["position"] = [second.state.step, second.state.items]
    second.train(2)
    found = second.weights()
    facts["unequal after resuming"] = [name for name in expected if not torch.equal(expected[name], found[name])]
    if parallel.is_main:
        save_tensors(folder / "straight.safetensors", expected)

    # From one process to two and back: the test wrote this one alone.
    alone = RunFolder(folder / "alone")
    third = Bench(parallel)
    third.state.load(*alone.load_step(2))
    third.train(2)
    saver_of_third = Saver(alone, SavingConfig(), parallel)
    saver_of_third.save(4, third.state.tensors(), third.metadata())
    saver_of_third.finish()

    # A disk that fills up under one rank only.
    real = sharded_module.HuggingFaceStorageWriter.write_data

    def full(self, plan, planner):
        raise OSError(errno.ENOSPC, "No space left on device")

    if parallel.rank == 1:
        sharded_module.HuggingFaceStorageWriter.write_data = full
    saver.save(9, first.state.tensors(), first.metadata())
    try:
        saver.finish()
        facts["full disk"] = "not noticed"
    except UserError as error:
        facts["full disk"] = str(error)
    sharded_module.HuggingFaceStorageWriter.write_data = real
    saver.save(10, first.state.tensors(), first.metadata())
    saver.finish()
    facts["steps after a full disk"] = run.steps()
    facts["left behind"] = sorted(path.name for path in run.checkpoints.iterdir())


def check_copies(parallel: Parallel, facts: dict) -> None:
    bench = Bench(parallel)
    bench.train(1)
    original = bench.networks.transformer
    expected = gather_parameters(original, keep=True)
    with bench.sharded.whole(bench.networks) as is_here:
        copy = bench.networks.transformer
        facts["copy"] = {
            "is here": is_here,
            "is plain": not any(isinstance(value, DTensor) for value in copy.parameters()) if is_here else None,
            "is equal": all(torch.equal(expected[name], value) for name, value in copy.named_parameters())
            if is_here
            else None,
        }
        if is_here:
            bench.objective.losses.transformer  # noqa: B018 - the objective keeps the sharded network
            text = bench.networks.text_encoder(input_ids=torch.ones(1, 3, dtype=torch.long))
            assert torch.isfinite(text.last_hidden_state).all()
    assert bench.networks.transformer is original
    bench.train(1)


def check_context(parallel: Parallel, facts: dict) -> None:
    """Pictures, of which one rank has none; and one rank that computes alone while the other waits."""
    for name in ("whole", "halves"):
        bench = Bench(Parallel() if name == "whole" else parallel, images_only=True)
        facts[f"pictures, {name}"] = bench.train(2)
    bench = Bench(replace(parallel, config=ParallelConfig(context=2, shard=False)))
    with bench.sharded.whole(bench.networks) as is_here:
        if is_here:
            facts["loss of one rank"] = bench.loss()
    facts["loss of both"] = bench.loss()


def check_guard(parallel: Parallel, folder: Path, facts: dict) -> None:
    """A strange loss on the last rank alone: none of them takes the step, and all take the next one."""
    bench = Bench(parallel)
    config = GuardConfig(spike_factor=5.0, window=8, action="skip")
    guard = bench.state.guard = Guard(config, torch.device("cpu"), folder=folder, stage="t2v")
    bench.train(1)
    before = bench.weights()
    for step in range(config.window):
        guard.note("probe", torch.tensor(1.0 + 0.01 * step), step)
    guard.note("probe", torch.tensor(50.0 if parallel.rank == parallel.world - 1 else 1.0), config.window)
    bench.train(1)
    skipped = bench.weights()
    bench.train(1)
    after = bench.weights()
    stay = [name for name in before if not name.startswith("ema/")]
    facts["guard"] = {
        "moved by the skipped step": [name for name in stay if not torch.equal(before[name], skipped[name])],
        "moved by the next step": any(not torch.equal(skipped[name], after[name]) for name in stay),
    }


def main(folder: Path, variants: list[str]) -> None:
    torch.set_num_threads(1)
    facts: dict = {}
    with parallel_session(ParallelConfig(context=2), torch.device("cpu")) as together:
        parallel = replace(together, config=ParallelConfig(), sequence=None)
        check_steps(together, folder, facts, variants or FIRST)
        if not variants:
            check_batches(parallel, folder, facts)
            check_checkpoints(parallel, folder, facts)
            check_copies(parallel, facts)
            check_context(together, facts)
            check_guard(parallel, folder, facts)
            facts["largest"] = parallel.largest(parallel.rank, -parallel.rank)
        everything = parallel.gather(facts)
        if parallel.is_main:
            (folder / "facts.json").write_text(json.dumps(everything))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
