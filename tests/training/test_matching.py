"""Layer-wise matching of converted mixers against the attention they replace."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba
from m4v.checkpoints.run_folder import RunFolder
from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.schedule import PyramidSchedule
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.tokenizer import build_tokenizer
from m4v.recipes.debug import debug
from m4v.recipes.single_stage import only
from m4v.training.config import OptimConfig
from m4v.training.exporting import export_model
from m4v.training.flow_config import FlowStageConfig
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.loop import train_step
from m4v.training.matching_config import MatchStageConfig
from m4v.training.matching_objective import MatchingObjective, layer_pairs
from m4v.training.matching_stage import load_teacher
from m4v.training.networks import build_networks
from m4v.training.optim_config import PerDevice
from m4v.training.run import train
from m4v.training.state import TrainState

WORDS = ["a", "square", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with attention whose modulations are open, as after training, and two models converted from it."""
    root = tmp_path_factory.mktemp("models")
    recipe = debug()
    models = replace(recipe.models, denoiser=replace(recipe.models.denoiser, mixer_plan="attention-only"))
    networks = build_networks(models, build_tokenizer(WORDS), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in networks.transformer.named_parameters():
            if "modulation" in name or "proj_out" in name:
                value.normal_(std=0.3, generator=generator)
    export_model(root / "attention", replace(recipe, models=models), networks, {"stages": {}})
    convert_attention_to_mamba(root / "attention", root / "single", MambaInitialisation())
    convert_attention_to_mamba(root / "attention", root / "dual", MambaInitialisation(dual_mixer="mm_dim"))
    return root


@pytest.fixture
def teacher(folders):
    return load_teacher(str(folders / "attention"))


def load_student(folder):
    return M4VTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)


@pytest.fixture
def make_objective(teacher, networks, bank):
    def make(student, part="mixer", config=None):
        networks.text_encoder.requires_grad_(False)
        flow = PyramidFlowObjective(
            student,
            networks.text_encoder,
            bank,
            PyramidSchedule.from_config(PyramidFlowConfig()),
            config or FlowStageConfig(images_per_window=0),
            stage="match",
            batch_size=4,
            seed=3,
            use_bf16=False,
        )
        student.requires_grad_(False)
        objective = MatchingObjective(teacher, flow, part)
        for module in objective.modules.values():
            module.requires_grad_(True)
        return objective

    return make


def total(objective, step=0):
    return sum(float(term.loss.detach()) * term.weight for term in objective.terms(objective.batch(step), step))


@pytest.mark.parametrize(("kind", "part"), [("single", "mixer"), ("single", "block"), ("dual", "mixer")])
def test_loss_falls_and_nothing_but_the_matched_parts_changes(folders, make_objective, kind, part):
    student = load_student(folders / kind)
    before = {name: value.clone() for name, value in student.named_parameters()}
    objective = make_objective(student, part)
    state = TrainState(objective.modules, OptimConfig(lr=5e-3, warmup_steps=1, hold_share=1.0), 0)
    fixed = objective.batch(0)
    losses = []
    for _ in range(25):
        # The same draws every time, so that the loss is one function.
        objective.flow.draws.batch = lambda step: fixed
        values = _step(objective, state)
        losses.append(values)
    assert losses[-1] < 0.6 * losses[0]
    changed = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    own = ".mixer." if part == "mixer" else "single_transformer_blocks."
    assert changed
    assert all(own in name or name.startswith(own) for name in changed)
    if kind == "dual":
        assert any(name.startswith("transformer_blocks.0.mixer.text") for name in changed)


def _step(objective, state):
    step, state.step = state.step, 0
    values = train_step(objective, state, 100, objective.batch(0))
    state.step = step + 1
    return float(values[0]["loss"])


@pytest.mark.parametrize("part", ["mixer", "block"])
def test_gradients_reach_the_matched_parts_only(folders, make_objective, part):
    student = load_student(folders / "single")
    objective = make_objective(student, part)
    student.requires_grad_(True)
    for term in objective.terms(objective.batch(0), 0):
        term.loss.backward()
    touched = {name for name, value in student.named_parameters() if value.grad is not None and value.grad.any()}
    assert any(".mixer.in_proj" in name for name in touched)
    if part == "mixer":
        # The output matrix is asked through, never trained: the stage freezes it.
        assert all(".mixer." in name or "joint_out.weight" in name or "modulation" in name for name in touched)
    assert not any(name.startswith(("transformer_blocks", "proj_out", "video_embedder")) for name in touched)


def test_an_identical_mixer_has_no_error(folders, teacher, make_objective):
    student = load_student(folders / "single")
    for own, theirs in zip(student.single_transformer_blocks, teacher.single_transformer_blocks, strict=True):
        own.mixer, own.temporal_branch = copy.deepcopy(theirs.mixer), copy.deepcopy(theirs.temporal_branch)
    for part in ("mixer", "block"):
        assert total(make_objective(student, part)) < 1e-10


class _Silent(nn.Module):
    def forward(self, tokens, context):
        return torch.zeros_like(tokens)


def test_a_silent_mixer_has_the_error_one(folders, make_objective):
    student = load_student(folders / "single")
    for block in student.single_transformer_blocks:
        block.mixer = _Silent()
    assert total(make_objective(student)) == pytest.approx(1.0, abs=1e-5)


def test_a_layer_is_asked_about_the_teachers_tokens_and_not_about_its_predecessors(folders, make_objective):
    """Ruining the first student layer changes its own error and no other's."""

    def errors(student):
        objective = make_objective(student)
        found = {}
        for term in objective.terms(objective.batch(0), 0):
            for name, value in term.metrics.items():
                if name.startswith("match/"):
                    found.setdefault(name, []).append(float(value))
        return found

    student = load_student(folders / "single")
    before = errors(student)
    with torch.no_grad():
        student.single_transformer_blocks[0].mixer.in_proj.weight.normal_()
    after = errors(student)
    assert before["match/single-00"] != after["match/single-00"]
    assert before["match/single-01"] == after["match/single-01"]
    assert len(before["match/single-00"]) == 4


def test_hooks_see_the_tokens_that_the_teachers_blocks_see(folders, teacher, make_objective, monkeypatch):
    """Checked against a plain forward pass whose blocks are called by hand."""
    objective = make_objective(load_student(folders / "dual"))
    columns = objective.flow.columns(0)
    inputs = objective.flow.column_inputs(objective.batch(0), columns[-1], 0)
    seen = objective.run_teacher(inputs)
    calls = []
    run = M4VTransformer3DModel._run

    def noted(self, block, *arguments):
        outputs = run(self, block, *arguments)
        calls.append((block, arguments[:2], outputs))
        return outputs

    monkeypatch.setattr(M4VTransformer3DModel, "_run", noted)
    with torch.no_grad():
        teacher(list(inputs.clips), inputs.timesteps, inputs.text)
    assert [pair.name for pair in objective.pairs] == ["dual-00", "single-00", "single-01"]
    for pair, (block, before, after) in zip(objective.pairs, calls, strict=True):
        assert pair.teacher is block
        layer = seen[pair.name]
        for found, expected in zip((*layer.before, *layer.after), (*before, *after), strict=True):
            assert torch.equal(found, expected)
    # A single block's output is its input, plus the gated mixer and feed-forward.
    block, (text, video), (text_after, video_after) = calls[1]
    layer = seen["single-00"]
    silent = copy.deepcopy(block)
    silent.mixer.to_v.weight.data.zero_()
    silent.mixer.to_v.bias.data.zero_()
    context = _context(teacher, inputs)
    with torch.no_grad():
        rest = torch.cat(silent(text, video, context), dim=1)
        gate = block.modulation(context.embedding)[2]
        expected = torch.cat([text_after, video_after], dim=1) - rest
        torch.testing.assert_close(gate * torch.cat(layer.added, dim=1), expected, atol=1e-5, rtol=1e-4)


def _context(model, inputs):
    from m4v.models.denoiser.context import sequence_context
    from m4v.models.denoiser.pyramid import sequence_layout

    layout = sequence_layout(inputs.clips, model.settings.patch_size, inputs.text.tokens.shape[1])
    embedding = model.time_text_embed(inputs.timesteps, inputs.text.pooled)
    return sequence_context(model.settings, layout, embedding, inputs.text.mask)


def test_padding_of_the_text_does_not_count(folders, make_objective):
    student = load_student(folders / "single")
    objective = make_objective(student)
    batch = objective.batch(0)
    batch["token_mask"][1, 2:] = False
    pair = objective.pairs[0]
    inputs = objective.flow.column_inputs(batch, objective.flow.columns(0)[-1], 0)
    context = objective._student_context(inputs)
    seen = objective.run_teacher(inputs)[pair.name]
    reference = objective._layer_error(pair, seen, context, inputs.text.mask)
    spoilt = torch.cat(seen.added, dim=1).clone()
    spoilt[:, : inputs.text.mask.shape[1]][~inputs.text.mask] = 1e3
    seen.added = [spoilt]
    assert torch.equal(objective._layer_error(pair, seen, context, inputs.text.mask), reference)


def test_a_student_whose_sequences_are_shared_between_ranks_is_refused(folders, make_objective):
    student = load_student(folders / "single")
    student.build_context = lambda *arguments: None
    with pytest.raises(UserError, match=r"parallel\.context"):
        make_objective(student)


def test_a_teacher_of_another_size_or_without_attention_is_refused(folders, teacher):
    student = load_student(folders / "single")
    with pytest.raises(UserError, match="No layer of the model replaces attention"):
        layer_pairs(student, student)
    other = M4VTransformer3DModel(**{**dict(teacher.config), "mlp_ratio": 2})
    with pytest.raises(UserError, match="mlp_ratio is 2 in the teacher and 4 in the model"):
        layer_pairs(other, student)
    with pytest.raises(UserError, match="holds no transformer"):
        load_teacher(str(folders))


def test_a_batch_that_does_not_fit_the_columns_is_refused_in_this_stage_too():
    with pytest.raises(UserError, match="multiple of the 4 columns"):
        MatchStageConfig(batch_size=PerDevice(cpu=30, accelerator=64))


def test_a_run_that_matches_then_trains_resumes_bit_for_bit(folders, tiny_run, tmp_path):
    skipped, both = PerDevice(cpu=0, accelerator=0), PerDevice(cpu=2, accelerator=2)
    config = replace(
        tiny_run,
        vae=replace(tiny_run.vae, steps=skipped),
        t2i=replace(tiny_run.t2i, steps=skipped),
        match=MatchStageConfig(
            steps=both, batch_size=PerDevice(cpu=4, accelerator=4), teacher=str(folders / "attention")
        ),
        t2v=replace(tiny_run.t2v, steps=both),
    )
    for name, stops in (("whole", [None]), ("split", [1, 2, None])):
        for stop in stops:
            train(config, run_dir=tmp_path / name, init_from=folders / "single", device="cpu", max_steps=stop)
    (whole, facts), (split, _) = (RunFolder(tmp_path / name).load_step(4) for name in ("whole", "split"))
    assert facts["stages"]["match"]["steps"] == 2
    for part, tensors in whole.items():
        for name, value in tensors.items():
            assert torch.equal(value, split[part][name]), f"{part} {name}"


def test_a_match_stage_without_a_teacher_says_what_to_give(folders, tiny_run, tmp_path):
    config = only(replace(tiny_run, match=MatchStageConfig(steps=PerDevice(cpu=1, accelerator=1))), "match", "m")
    with pytest.raises(UserError, match=r"--match\.teacher"):
        train(config, run_dir=tmp_path, init_from=folders / "single", device="cpu")
