"""Two ranks on a CPU against one process: the same batches, weights, checkpoints and failures."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from parallel_worker import FIRST, VARIANTS, Bench, vae_weights

from m4v.checkpoints.run_folder import RunFolder
from m4v.checkpoints.weights import load_tensors
from m4v.core.errors import UserError
from m4v.core.generators import RowsGenerator, draw
from m4v.recipes.debug import debug
from m4v.training.config import PerDevice
from m4v.training.parallel import Parallel, parallel_session
from m4v.training.parallel_config import ParallelConfig
from m4v.training.row_share import RowShare
from m4v.training.starting_networks import require_whole_sequences

WORKER = Path(__file__).parent / "parallel_worker.py"


def launch(*words: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Everything two ranks did: their folder, and the facts of each."""
    folder = tmp_path_factory.mktemp("ranks")
    alone = Bench(Parallel())
    alone.train(2)
    RunFolder(folder / "alone").save_step(2, alone.state.tensors(), alone.metadata())
    return folder, work(folder)


@pytest.fixture(scope="module")
def more_ranks(tmp_path_factory):
    """The variants that are not in every test run."""
    folder = tmp_path_factory.mktemp("more-ranks")
    return folder, work(folder, *(name for name in VARIANTS if name not in FIRST))


def work(folder, *variants):
    done = launch(str(WORKER), str(folder), *variants)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "facts.json").read_text())


@pytest.fixture(scope="module")
def alone():
    """Weights, averages and moments of one process after two and four steps, and the norms of its gradients."""
    bench = Bench(Parallel())
    norms = bench.train(2)
    two = bench.weights()
    bench.train(2)
    return two, bench.weights(), norms


def assert_close(found, expected, tolerance=2e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    "variant", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_two_ranks_take_the_steps_of_one(request, alone, variant):
    folder, facts = request.getfixturevalue("ranks" if variant in FIRST else "more_ranks")
    assert_close(load_tensors(folder / f"{variant}.safetensors"), alone[0])
    for rank in facts:
        assert rank[variant]["norms"] == pytest.approx(alone[2], rel=1e-5)
        assert rank[variant]["is_split"] == VARIANTS[variant].shard
        assert bool(rank[variant]["recomputed"]) == bool(VARIANTS[variant].checkpoint_share)


def test_ranks_that_share_a_sequence_take_the_same_steps_on_pictures(ranks):
    """A picture is one frame, which one rank holds; the other has the text or nothing."""
    for rank in ranks[1]:
        assert rank["pictures, halves"] == pytest.approx(rank["pictures, whole"], rel=1e-5)


def test_one_rank_computes_whole_sequences_while_the_other_waits(ranks):
    assert ranks[1][0]["loss of one rank"] == pytest.approx(ranks[1][0]["loss of both"], rel=1e-5)


def test_a_rank_reads_its_own_share_of_a_checkpoint(ranks):
    for rank in ranks[1]:
        assert 0.4 < rank["share of the checkpoint read"] < 0.6


def test_a_loss_that_is_strange_on_one_rank_is_skipped_on_all(ranks):
    for rank in ranks[1]:
        assert rank["guard"] == {"moved by the skipped step": [], "moved by the next step": True}


def test_ranks_may_share_columns_instead_of_rows(ranks):
    bench = Bench(Parallel(), batch_size=4)
    bench.train(2)
    assert_close(load_tensors(ranks[0] / "columns apart.safetensors"), bench.weights())


def test_noise_drawn_inside_the_autoencoder_is_that_of_one_process(ranks):
    assert_close(load_tensors(ranks[0] / "autoencoder.safetensors"), vae_weights(Parallel()))


def test_weights_gathered_in_bf16_keep_fp32_masters_and_state_space_parameters(ranks):
    norms = Bench(Parallel(), in_bf16=True).train(2)
    for rank in ranks[1]:
        assert rank["bf16"]["types"] == ["torch.float32"]
        assert {"A_log", "dt_bias", "D_skip", "weight", "bias"} == set(rank["bf16"]["whole"])
        assert rank["bf16"]["norms"] == pytest.approx(norms, rel=0.05)


def test_a_sharded_checkpoint_holds_the_moment_it_was_asked_for(ranks):
    folder, _ = ranks
    states, metadata = RunFolder(folder / "run").load_step(2)
    expected = load_tensors(folder / "saved at 2.safetensors")
    found = {f"{part}/{name}": value for part, tensors in states.items() for name, value in tensors.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert metadata["stage_step"] == 2


def test_stopping_and_resuming_on_two_ranks_changes_no_bit(ranks):
    for rank in ranks[1]:
        assert rank["unequal after resuming"] == []
        assert rank["position"] == [2, 16]


def test_checkpoints_go_from_one_rank_to_two_and_back(ranks, alone):
    """Two steps alone, two on two ranks, then read by one process again: four steps of one process."""
    states, _ = RunFolder(ranks[0] / "alone").load_step(4)
    found = {f"{part}/{name}": value for part, tensors in states.items() for name, value in tensors.items()}
    assert_close(found, alone[1], tolerance=2e-4)
    bench = Bench(Parallel())
    bench.state.load(*RunFolder(ranks[0] / "run").load_step(2))
    bench.train(2)
    assert_close(bench.weights(), load_tensors(ranks[0] / "straight.safetensors"), tolerance=2e-4)


def test_a_full_disk_under_one_rank_stops_all_and_keeps_old_checkpoints(ranks):
    for rank in ranks[1]:
        assert "No space left on device" in rank["full disk"]
        assert "step-9" in rank["full disk"]
        assert rank["steps after a full disk"] == [2, 10]
        assert rank["left behind"] == ["step-10", "step-2"]


def test_plain_copies_of_sharded_networks_stand_in_on_the_first_rank(ranks):
    assert ranks[1][0]["copy"] == {"is here": True, "is plain": True, "is equal": True}
    assert ranks[1][1]["copy"]["is here"] is False


def test_ranks_agree_on_the_largest_wish(ranks):
    assert [rank["largest"] for rank in ranks[1]] == [[1.0, 0.0], [1.0, 0.0]]


FAILING = """
import sys, time, torch
from m4v.core.errors import UserError
from m4v.training.parallel import parallel_session
from m4v.training.parallel_config import ParallelConfig
try:
    with parallel_session(ParallelConfig(), torch.device("cpu")) as parallel:
        parallel.wait()
        if parallel.rank == 1:
            raise UserError("clip 7 of rank 1 is broken")
        parallel.wait()
except UserError as error:
    print(f"rank {parallel.rank} ends with: {error}", flush=True)
    sys.exit(2)
"""


def test_a_failing_rank_ends_all_and_its_reason_is_shown(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    start = time.monotonic()
    done = launch(str(script), seconds=60)
    assert time.monotonic() - start < 60
    assert done.returncode != 0
    assert "clip 7 of rank 1 is broken" in done.stdout


@pytest.mark.slow
def test_the_command_line_trains_on_two_ranks_that_share_sequences_as_on_one(tmp_path):
    """`m4v train` under torchrun, stopped within a stage and resumed by the same command."""
    words = ["m4v", "train", "debug", "--device", "cpu", "--precision", "fp32"]
    together = ["-m", "--", *words, "--run", str(tmp_path / "two"), "--parallel.context", "2"]
    for more in (["--max-steps", "7"], []):
        done = launch(*together, *more)
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.splitlines() == [str(tmp_path / "two" / "export")]
    alone = subprocess.run(
        [sys.executable, "-m", *words, "--run", str(tmp_path / "one")], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr[-4000:]
    runs = [
        [
            line
            for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
            if "loss" in line
        ]
        for name in ("one", "two")
    ]
    assert [line["stage"] for line in runs[1]] == [line["stage"] for line in runs[0]]
    assert [line["loss"] for line in runs[1]] == pytest.approx([line["loss"] for line in runs[0]], rel=1e-3)
    assert RunFolder(tmp_path / "two").latest_step() == 8


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 2), (8, 1), (3, 4)])
@pytest.mark.parametrize(("batch", "columns"), [(48, 4), (24, 1), (96, 12)])
def test_ranks_share_every_row_of_a_batch_once(world, accumulate, batch, columns):
    shares = [RowShare(rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    rows = [row for share in shares for row in share.rows(batch, columns)]
    assert sorted(rows) == list(range(batch))
    assert len({len(share.pieces(batch, columns)) for share in shares}) == 1
    sizes = {piece.stop - piece.start for share in shares for piece in share.pieces(batch, columns)}
    assert len(sizes) == 1


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UserError, match=r"batch of 8 in 4 columns .* by 3 ranks"):
        RowShare(rank=0, world=3).pieces(8, 4)


@pytest.mark.parametrize("row_dim", [0, 1])
def test_rows_get_the_draws_of_the_whole_batch(row_dim):
    whole = draw(torch.randn, (6, 6), torch.Generator().manual_seed(5), row_dim=row_dim)
    shape = (2, 6) if row_dim == 0 else (6, 2)
    part = draw(torch.randn, shape, RowsGenerator(torch.Generator().manual_seed(5), 6, 3), row_dim=row_dim)
    assert torch.equal(part, whole.narrow(row_dim, 3, 2))


def test_accumulated_parts_make_the_same_step_on_one_process(alone):
    bench = Bench(Parallel(config=ParallelConfig(accumulate=2)))
    assert bench.train(2) == pytest.approx(alone[2], rel=1e-5)
    assert_close(bench.weights(), alone[0])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_recomputed_activations_change_nothing(alone, share):
    bench = Bench(Parallel(config=ParallelConfig(checkpoint_share=share)))
    num_blocks = len(bench.networks.transformer.transformer_blocks) + len(
        bench.networks.transformer.single_transformer_blocks
    )
    assert bench.num_recomputed == int(share * num_blocks)
    bench.train(2)
    assert_close(bench.weights(), alone[0], tolerance=1e-7)


def test_ranks_that_cannot_be_divided_into_groups_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(UserError, match=r"parallel\.context is 2, the number of ranks 3"),
        parallel_session(ParallelConfig(context=2), torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize("change", [{"steps": "match"}, {"steps": "clips"}, {"compile_blocks": True}])
def test_what_needs_whole_sequences_is_refused(change):
    config = replace(debug(), parallel=ParallelConfig(context=2))
    require_whole_sequences(config, "cpu")
    if stage := change.pop("steps", None):
        change = {stage: replace(getattr(config, stage), steps=PerDevice(cpu=1, accelerator=1))}
    with pytest.raises(UserError, match=r"parallel\.context"):
        require_whole_sequences(replace(config, **change), "cpu")


@pytest.mark.parametrize("bad", [{"accumulate": 0}, {"checkpoint_share": 1.5}, {"context": 0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=f"parallel.{next(iter(bad))}"):
        ParallelConfig(**bad)
