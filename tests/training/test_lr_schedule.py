import pytest

from m4v.core.errors import UserError
from m4v.training.config import OptimConfig
from m4v.training.lr_schedule import lr_at

CONFIG = OptimConfig(lr=2.0, warmup_steps=4, hold_share=0.5, final_lr_share=0.1)


def test_warm_up_is_linear_and_reaches_the_peak():
    assert [lr_at(step, 21, CONFIG) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]


def test_hold_then_cosine_to_the_floor():
    assert lr_at(10, 21, CONFIG) == 2.0
    # Half way between step 10.5 and the last step, 20: the mean of peak and floor.
    assert lr_at(15, 20, OptimConfig(lr=2.0, warmup_steps=0, hold_share=0.55, final_lr_share=0.1)) == pytest.approx(1.1)
    assert lr_at(20, 21, CONFIG) == pytest.approx(0.2)
    rates = [lr_at(step, 21, CONFIG) for step in range(10, 21)]
    assert rates == sorted(rates, reverse=True)


def test_full_hold_never_decays():
    config = OptimConfig(lr=2.0, warmup_steps=0, hold_share=1.0)
    assert {lr_at(step, 7, config) for step in range(7)} == {2.0}


@pytest.mark.parametrize("field", ["lr", "clip_norm", "hold_share", "ema_decay"])
def test_settings_out_of_range_are_named(field):
    with pytest.raises(UserError, match=field):
        OptimConfig(**{field: -1.0})
