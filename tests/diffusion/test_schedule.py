"""The schedule against the published constants, literal transcriptions and closed forms; sampling."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hemolens.diffusion.schedule import DiffusionSchedule, generators
from hemolens.errors import UserError

# T = 4, rates 0.1 and 20, computed by hand from Song et al. 2021, Eq. 29, and Ho et al. 2020, Eqs. 6 and 7.
FOUR: dict[str, list[float]] = {
    "betas": [1e-8, 0.47825530, 0.84920603, 0.95641768, 0.98740393],
    "sqrt_alphas": [1.0, 0.72231897, 0.38832199, 0.20876379, 0.11223222],
    "sqrt_alphas_cumprod": [1.0, 0.72231897, 0.28049234, 0.05855664, 0.00657194],
    "sqrt_one_minus_alphas_cumprod": [1e-4, 0.69156005, 0.95985626, 0.99828409, 0.99997840],
    "posterior_variance": [0.0, 0.44081915, 0.88420243, 0.98406074],
    "posterior_mean_coef1": [1.0, 0.66577838, 0.26919086, 0.05782156],
    "posterior_mean_coef2": [0.0, 0.20157626, 0.19300088, 0.11185222],
}


@pytest.mark.parametrize("name", FOUR)
def test_constants_of_four_steps(name: str) -> None:
    torch.testing.assert_close(getattr(DiffusionSchedule(), name), torch.tensor(FOUR[name]), atol=1e-5, rtol=0)


def test_constants_of_two_steps() -> None:
    schedule = DiffusionSchedule(2)
    torch.testing.assert_close(schedule.betas[1:], torch.tensor([0.92132401, 0.99945104]), atol=1e-5, rtol=0)
    torch.testing.assert_close(schedule.posterior_variance, torch.tensor([0.0, 0.92085802]), atol=1e-5, rtol=0)


def literal_posterior(betas: list[float], x0: float, x_next: float, t: int) -> tuple[float, float]:
    """Bayes' rule for two Gaussians, one step at a time: q(x_t | x_0) times q(x_{t+1} | x_t)."""
    kept = 1.0
    for beta in betas[1 : t + 1]:
        kept *= 1 - beta
    beta = betas[t + 1]
    if t == 0:
        return x0, 0.0
    spread = 1 - kept  # of x_t given x_0
    precision = 1 / spread + (1 - beta) / beta
    mean = (math.sqrt(kept) * x0 / spread + math.sqrt(1 - beta) * x_next / beta) / precision
    return mean, 1 / precision


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_posterior_is_bayes_rule(steps: int) -> None:
    schedule = DiffusionSchedule(steps)
    betas = schedule.betas.double().tolist()
    x0, x_next = torch.randn(steps, 1, 1, 1), torch.randn(steps, 1, 1, 1)
    t = torch.arange(steps)
    mean, variance = schedule.posterior(x0, x_next, t)
    for index in range(steps):
        expected = literal_posterior(betas, float(x0[index]), float(x_next[index]), index)
        assert float(mean[index]) == pytest.approx(expected[0], abs=1e-5)
        assert float(variance[index]) == pytest.approx(expected[1], abs=1e-5)


def test_a_pair_has_the_moments_of_two_draws() -> None:
    torch.manual_seed(0)
    schedule = DiffusionSchedule()
    x0 = torch.full((4, 1, 200, 200), 0.5)
    t = torch.arange(4)
    x_t, x_next = schedule.q_sample_pair(x0, t)
    for index in range(4):
        for images, step in ((x_t, index), (x_next, index + 1)):
            signal = float(schedule.sqrt_alphas_cumprod[step])
            spread = float(schedule.sqrt_one_minus_alphas_cumprod[step])
            assert float(images[index].mean()) == pytest.approx(0.5 * signal, abs=0.02)
            assert float(images[index].std()) == pytest.approx(spread, abs=0.02)
    # and x_{t+1} comes of x_t: what is left is the step's noise alone
    left = x_next - schedule.sqrt_alphas[t + 1].view(-1, 1, 1, 1) * x_t
    torch.testing.assert_close(left.std(dim=(1, 2, 3)), schedule.betas[1:].sqrt(), atol=0.02, rtol=0)


def test_q_sample_with_given_noise_is_its_formula() -> None:
    schedule = DiffusionSchedule()
    x0, noise = torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3)
    made = schedule.q_sample(x0, torch.arange(5), noise)
    for index in range(5):
        signal = schedule.sqrt_alphas_cumprod[index]
        expected = signal * x0[index] + (1 - signal.double() ** 2).sqrt().float() * noise[index]
        torch.testing.assert_close(made[index], expected, atol=1e-3, rtol=0)


def test_the_last_step_returns_what_the_generator_says() -> None:
    schedule = DiffusionSchedule()
    x0, x_next = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    drawn = schedule.sample_posterior(x0, x_next, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(drawn, x0)


class Perfect:
    """Says the same image whatever it sees."""

    latent_dim = 3

    def __init__(self, image: Tensor) -> None:
        self.image, self.calls = image, []  # type: tuple[Tensor, list[Any]]

    def __call__(self, x: Tensor, t: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        self.calls.append((x, int(t[0]), z, *condition))
        return self.image.expand_as(x)


def test_sampling_goes_from_noise_to_the_generators_image_in_t_steps() -> None:
    image = torch.randn(1, 2, 4, 4)
    generator = Perfect(image)
    condition = torch.randn(6, 1, 4, 4)
    made = DiffusionSchedule().sample(generator, (6, 2, 4, 4), condition, torch.Generator().manual_seed(0))
    assert torch.equal(made, image.expand(6, 2, 4, 4))
    assert [call[1] for call in generator.calls] == [3, 2, 1, 0]
    assert all(call[2].shape == (6, 3) and call[3] is condition for call in generator.calls)
    assert float(generator.calls[0][0].std()) == pytest.approx(1, abs=0.2)


def echo(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(x + z.mean(1)[:, None, None, None])


def test_an_image_depends_on_its_own_noise_alone() -> None:
    schedule = DiffusionSchedule()
    together = schedule.sample(echo, (3, 1, 8, 8), rng=generators(7, [4, 5, 6]), latent_dim=2)
    for place, index in enumerate((4, 5, 6)):
        alone = schedule.sample(echo, (1, 1, 8, 8), rng=generators(7, [index]), latent_dim=2)
        assert torch.equal(alone[0], together[place])
    other = schedule.sample(echo, (1, 1, 8, 8), rng=generators(8, [4]), latent_dim=2)
    assert not torch.allclose(other[0], together[0])


@pytest.mark.parametrize("bad", [{"num_timesteps": 0}, {"beta_min": 0.0}, {"beta_max": 0.05}])
def test_a_schedule_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="diffusion"):
        DiffusionSchedule(**bad)


def test_another_number_of_generators_is_refused() -> None:
    with pytest.raises(UserError, match="2 generators for 3 images"):
        DiffusionSchedule().sample(echo, (3, 1, 8, 8), rng=generators(0, [0, 1]), latent_dim=2)


def test_the_buffers_travel_with_a_checkpoint() -> None:
    assert set(FOUR) == set(DiffusionSchedule().state_dict())
