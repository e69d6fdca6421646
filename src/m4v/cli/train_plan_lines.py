"""A training plan as people read it."""

import json

from m4v.cli.console import duration
from m4v.cli.train_plan import StagePlan, TrainingPlan


def plan_lines(plan: TrainingPlan) -> list[str]:
    """Write a plan: stages, sources, time, then every setting as JSON."""
    devices = plan.device if plan.num_devices == 1 else f"{plan.num_devices} x {plan.device}"
    lines = [f"{plan.recipe} on {devices}; nothing is read or written."]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage)]
    lines += ["", "data"]
    for source in plan.sources:
        place = source["path"] or ("rendered" if source["kind"] == "toybox" else "from --data")
        made = ", made by a model" if source["synthetic"] else ""
        lines.append(f"  {source['name']:<20}{source['share']:>7.1%}  {place}{made}")
    for bucket in plan.config["data"]["buckets"]:
        size = "{height}x{width}x{num_frames}".format(**bucket)
        lines.append(f"  bucket {size}, {bucket['batch_share']:g} of the batch")
    if plan.config["data"]["buckets"]:
        data = plan.config["data"]
        lines.append(f"  Figures are of the run's own size {data['height']}x{data['width']}x{data['num_frames']}.")
    lines += [
        "",
        f"time: about {duration(plan.hours * 3600)} in all ({plan.hours * plan.num_devices:,.1f} device hours), at "
        f"{plan.rate_source}.",
        "Not in it: encoding the clips, samples, checkpoints, decoding for rewards. Memory: workspaces come on top.",
        "",
        "settings",
        json.dumps(plan.config, indent=2),
    ]
    return lines


def _stage_lines(stage: StagePlan) -> list[str]:
    memory = stage.memory_bytes
    lines = [
        f"{stage.name}: {stage.steps:,} steps of {stage.batch_size:,}, peak learning rate {stage.lr:g}",
        f"  parameters        {stage.trained_parameters:,} trained, {stage.frozen_parameters:,} frozen",
    ]
    if tokens := stage.tokens_per_step:
        lines.append(
            f"  tokens per step   {tokens['mean']:,.0f} (image step {tokens['image']:,.0f}, video step "
            f"{tokens['video']:,.0f})"
        )
    return [
        *lines,
        f"  FLOP per step     {stage.flops_per_step:.3g}, all steps {stage.flops_per_step * stage.steps:.3g}",
        f"  memory per device {_bytes(memory['peak'])}: states {_bytes(memory['states'])}, frozen "
        f"{_bytes(memory['frozen'])}, activations {_bytes(memory['activations'])}",
        f"  time              {duration(stage.hours * 3600)}",
    ]


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**28 else f"{count / 2**20:,.1f} MiB"
