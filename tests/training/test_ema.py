import torch
from torch import nn

from m4v.training.ema import Ema


def test_decay_is_warmed_up():
    ema = Ema({"net": nn.Linear(1, 1)}, decay=0.9)
    assert ema.decay_at(0) == 1 / 10
    assert ema.decay_at(5) == 6 / 15
    assert ema.decay_at(10_000) == 0.9


def test_update_follows_the_definition():
    net = nn.Linear(2, 2)
    ema = Ema({"net": net}, decay=0.5)
    expected = net.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            net.weight.add_(1.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    torch.testing.assert_close(ema.shadow["net/weight"], expected)


def test_averaged_swaps_and_restores_bitwise():
    net = nn.Linear(2, 2)
    ema = Ema({"net": net}, decay=0.9)
    with torch.no_grad():
        net.weight.mul_(3.0)
    trained = net.weight.detach().clone()
    with ema.averaged():
        assert torch.equal(net.weight, ema.shadow["net/weight"])
        assert not torch.equal(net.weight, trained)
    assert torch.equal(net.weight, trained)


def test_shadow_does_not_alias_parameters():
    net = nn.Linear(2, 2)
    ema = Ema({"net": net}, decay=0.9)
    before = ema.shadow["net/weight"].clone()
    with torch.no_grad():
        net.weight.zero_()
    assert torch.equal(ema.shadow["net/weight"], before)
