import torch
from torch import nn

from m4v.training.config import OptimConfig
from m4v.training.optimizer import build_optimizer, is_decayed, load_optimizer_tensors, optimizer_tensors, set_lr


def test_only_matrices_outside_the_state_space_are_decayed(networks):
    decayed = {
        name for name, value in networks.transformer.named_parameters() if is_decayed(f"transformer/{name}", value)
    }
    leaves = {name.rsplit(".", 1)[-1] for name in decayed}
    assert "weight" in leaves
    assert not leaves & {"A_log", "dt_bias", "D_skip", "bias"}
    for name, value in networks.transformer.named_parameters():
        if value.ndim < 2:
            assert name not in decayed


def test_matrix_shaped_state_space_parameters_are_not_decayed():
    for leaf in ("A_log", "dt_bias", "D_skip"):
        assert not is_decayed(f"transformer/blocks.0.{leaf}", torch.zeros(4, 4))


def test_weight_decay_reaches_the_right_group():
    net = nn.Linear(3, 3)
    optimizer = build_optimizer({"net": net}, OptimConfig(weight_decay=0.3))
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert by_decay[0.3][0] is net.weight
    assert by_decay[0.0][0] is net.bias


def test_moments_survive_a_round_trip():
    def run(net, optimizer, steps):
        for step in range(steps):
            net(torch.full((2, 3), 1.0 + step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    whole = nn.Linear(3, 3)
    split = nn.Linear(3, 3)
    split.load_state_dict(whole.state_dict())
    config = OptimConfig()
    first, second = build_optimizer({"net": whole}, config), build_optimizer({"net": split}, config)
    run(whole, first, 3)
    run(split, second, 3)
    fresh = build_optimizer({"net": split}, config)
    load_optimizer_tensors(fresh, {"net": split}, optimizer_tensors(second, {"net": split}))
    run(whole, first, 3)
    run(split, fresh, 3)
    assert torch.equal(whole.weight, split.weight)


def test_set_lr_reaches_every_group():
    optimizer = build_optimizer({"net": nn.Linear(2, 2)}, OptimConfig())
    set_lr(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
