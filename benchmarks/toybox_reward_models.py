"""Train the toybox reward models again and print what held-out renders say of them, as JSON.

    python benchmarks/toybox_reward_models.py src/m4v/bundled/rewards
    python benchmarks/toybox_reward_models.py my_rewards --tier s --clips 8000 --clip-steps 3000 --vae runs/vae/export

The bundled pair took about ten minutes of one CPU core. Frames are looked at in 64 x 64 pixels whatever the tier.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from m4v.checkpoints.resolve import resolve_model
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.training.progress import Progress
from m4v.training.reward_toybox_training import ToyboxRewardTraining, train_toybox_rewards


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ToyboxRewardTraining()
    parser.add_argument("out", type=Path, help="folder that gets toybox-clip/ and toybox-quality/")
    parser.add_argument("--tier", default=defaults.tier)
    parser.add_argument("--clips", type=int, default=defaults.num_clips)
    parser.add_argument("--clip-steps", type=int, default=defaults.clip_steps)
    parser.add_argument("--quality-steps", type=int, default=defaults.quality_steps)
    parser.add_argument("--vae", default="toybox-xs", help="model whose autoencoder codes clips of that tier")
    arguments = parser.parse_args()
    config = replace(
        defaults,
        tier=arguments.tier,
        num_clips=arguments.clips,
        clip_steps=arguments.clip_steps,
        quality_steps=arguments.quality_steps,
    )
    vae = CausalVideoVAE.from_pretrained(resolve_model(arguments.vae) / "vae", torch_dtype=torch.float32).eval()
    sys.stdout.write(json.dumps(train_toybox_rewards(arguments.out, vae, config, _report), indent=1) + "\n")


def _report(progress: Progress) -> None:
    sys.stderr.write(f"{progress.phase} {progress.done}/{progress.total} {dict(progress.values)}\n")


if __name__ == "__main__":
    main()
