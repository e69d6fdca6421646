"""`m4v convert`: checkpoints of other code bases to model folders of this package, and attention to state space."""

from m4v.cli import convert_attention_to_mamba, convert_pyramid_flow, convert_wan
from m4v.cli.verb import Action

VERB = {
    "pyramid-flow": Action(convert_pyramid_flow.ConvertPyramidFlowArguments, convert_pyramid_flow.run),
    "wan": Action(convert_wan.ConvertWanArguments, convert_wan.run),
    "attention-to-mamba": Action(convert_attention_to_mamba.AttentionToMambaArguments, convert_attention_to_mamba.run),
}
