"""The learning rate by step, and the generators of batches."""

from dataclasses import replace

import pytest
import torch

from bdkit.training.config import TrainingConfig
from bdkit.training.data import step_generator
from bdkit.utils.errors import InputError

PLAIN = TrainingConfig(steps=24, batch_size=4, learning_rate=1e-2, schedule="linear", warmup_steps=5)


def test_learning_rate_factor_starts_again_at_a_restart() -> None:
    constant = replace(PLAIN, schedule="constant", warmup_steps=4, steps=10)
    assert [constant.factor(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = replace(PLAIN, schedule="linear", warmup_steps=0, steps=10)
    assert [linear.factor(k) for k in range(10)] == pytest.approx([1 - k / 10 for k in range(10)])
    assert replace(linear, warmup_steps=2).factor(0) == 0.5
    cosine = replace(PLAIN, schedule="cosine", warmup_steps=2, steps=10)
    assert [cosine.factor(k) for k in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert 0 < cosine.factor(9) < 0.05
    with pytest.raises(InputError, match="'stairs' is not known; use constant, linear, cosine"):
        replace(PLAIN, schedule="stairs")
    config = replace(PLAIN, steps=10, restarts=(4,), warmup_steps=0)
    assert [config.factor(k) for k in range(10)] == pytest.approx(
        [1, 3 / 4, 2 / 4, 1 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
    warm = replace(config, warmup_steps=2)
    assert (warm.factor(0), warm.factor(4), warm.factor(5)) == pytest.approx((0.5, 0.5, 5 / 6))
    for wrong in ((0,), (10,), (5, 3), (3, 3)):
        with pytest.raises(InputError, match=r"restarts must rise between 0 and 10, the number of steps"):
            replace(config, restarts=wrong)


def test_step_generators_differ_by_seed_and_step() -> None:
    ids = [(seed, step) for seed in (0, 1) for step in (0, 1, 2)]
    draws = {float(torch.rand((), dtype=torch.float64, generator=step_generator(*each))) for each in ids}
    assert len(draws) == len(ids)
    assert torch.equal(torch.rand(3, generator=step_generator(4, 2)), torch.rand(3, generator=step_generator(4, 2)))
