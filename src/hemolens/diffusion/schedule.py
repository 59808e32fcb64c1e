"""The forward diffusion and its posterior for a few large steps (Xiao, Kreis & Vahdat 2022, arXiv:2112.07804).

Shapes: B images, C channels, T denoising steps. x_0 is an image, x_T nearly pure noise.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hemolens.errors import UserError

START = 1e-3  # of the continuous time at which x_0 stands: data are never quite free of noise
FIRST_BETA = 1e-8  # noise of x_0 itself
Generator = Callable[..., Tensor]
"""``generator(x, t, z)``, or ``generator(x, t, z, condition)``: the clean image that x_{t+1} came from."""
Rng = torch.Generator | Sequence[torch.Generator]


class DiffusionSchedule(nn.Module):
    """Variances of a variance-preserving diffusion, cut into ``num_timesteps`` steps.

    With ``log m(t) = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2`` (Song et al. 2021, Eq. 29) the signal's share of
    the variance is ``m(t)^2``; the steps lie at equal distances of t in [0.001, 1].

    The buffers are float32 and computed in float64; ``betas``, ``sqrt_alphas`` (sqrt(1 - beta)),
    ``sqrt_alphas_cumprod`` and ``sqrt_one_minus_alphas_cumprod`` have T + 1 entries, of x_0 to x_T;
    ``posterior_variance``, ``posterior_mean_coef1`` (of x_0) and ``posterior_mean_coef2`` (of x_{t+1}) have T, of the
    steps from x_{t+1} to x_t (Ho et al. 2020, Eqs. 6 and 7).

    Args:
        num_timesteps: T; 4 in the paper for 256 px.
        beta_min, beta_max: rates of the noise at the start and at the end of the continuous time.

    Raises:
        UserError: no step, or rates that are not positive and rising.
    """

    betas: Tensor
    sqrt_alphas: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    def __init__(self, num_timesteps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        if num_timesteps < 1 or not 0 < beta_min <= beta_max:
            raise UserError(
                f"diffusion: num_timesteps={num_timesteps}, beta_min={beta_min}, beta_max={beta_max}: give at least "
                "one step and 0 < beta_min <= beta_max"
            )
        self.num_timesteps = num_timesteps
        time = torch.linspace(START, 1.0, num_timesteps + 1, dtype=torch.float64)
        signal = torch.exp(-(time**2) * (beta_max - beta_min) / 2 - time * beta_min)  # share of the variance
        betas = torch.cat([torch.tensor([FIRST_BETA], dtype=torch.float64), 1 - signal[1:] / signal[:-1]])
        alphas = 1 - betas
        cumulative = alphas.cumprod(0)
        steps = betas[1:]
        after = (1 - steps).cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), after[:-1]])
        buffers = {
            "betas": betas,
            "sqrt_alphas": alphas.sqrt(),
            "sqrt_alphas_cumprod": cumulative.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
            "posterior_variance": steps * (1 - before) / (1 - after),
            "posterior_mean_coef1": steps * before.sqrt() / (1 - after),
            "posterior_mean_coef2": (1 - before) * (1 - steps).sqrt() / (1 - after),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values.float())

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t of images x_0.

        Args:
            x0: float [B, C, H, W].
            t: int64 [B], 0 to T.
            noise: like ``x0``, standard normal; None draws it.
        """
        noise = torch.randn_like(x0) if noise is None else noise
        signal, spread = self.sqrt_alphas_cumprod[t], self.sqrt_one_minus_alphas_cumprod[t]
        return _along(signal, x0) * x0 + _along(spread, x0) * noise

    def q_sample_pair(
        self, x0: Tensor, t: Tensor, noise: Tensor | None = None, next_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x_t and the x_{t+1} that one more step makes of it.

        Args:
            x0: float [B, C, H, W].
            t: int64 [B], 0 to T - 1.
            noise, next_noise: standard normal, of x_t and of the step; None draws them.
        """
        x_t = self.q_sample(x0, t, noise)
        next_noise = torch.randn_like(x0) if next_noise is None else next_noise
        x_next = _along(self.sqrt_alphas[t + 1], x0) * x_t + _along(self.betas[t + 1].sqrt(), x0) * next_noise
        return x_t, x_next

    def posterior(self, x0_hat: Tensor, x_next: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, C, H, W] and variance [B, 1, 1, 1] of q(x_t | x_{t+1}, x_0).

        Args:
            x0_hat: the clean images, float [B, C, H, W].
            x_next: x_{t+1}, alike.
            t: int64 [B], 0 to T - 1.
        """
        mean = _along(self.posterior_mean_coef1[t], x_next) * x0_hat
        mean = mean + _along(self.posterior_mean_coef2[t], x_next) * x_next
        return mean, _along(self.posterior_variance[t], x_next)

    def sample_posterior(self, x0_hat: Tensor, x_next: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t; at t = 0 it is ``x0_hat`` itself.

        Args:
            x0_hat, x_next, t: see :meth:`posterior`.
            noise: standard normal; None draws it.
        """
        mean, variance = self.posterior(x0_hat, x_next, t)
        noise = torch.randn_like(x_next) if noise is None else noise
        return mean + variance.sqrt() * noise  # the variance of the last step is 0

    @torch.no_grad()
    def sample(
        self,
        generator: Generator,
        shape: Sequence[int],
        condition: Tensor | None = None,
        rng: Rng | None = None,
        *,
        latent_dim: int | None = None,
    ) -> Tensor:
        """Images from noise, in T steps.

        Args:
            generator: called with x_{t+1} float [B, C, H, W], t int64 [B], z float [B, latent_dim] and, where there is
                one, the condition; says x_0.
            shape: (B, C, H, W).
            condition: float [B, C', H, W].
            rng: source of all noise: one for the batch, or one for each image, so that an image does not depend on
                what else is in the batch; None takes torch's own.
            latent_dim: length of z; None asks the generator's ``latent_dim``.

        Returns:
            x_0, float32 [B, C, H, W].

        Raises:
            UserError: another number of generators than images.
        """
        device = self.betas.device
        latent: int = getattr(generator, "latent_dim") if latent_dim is None else latent_dim  # noqa: B009
        if isinstance(rng, Sequence) and len(rng) != shape[0]:
            raise UserError(f"rng holds {len(rng)} generators for {shape[0]} images: give one for each")
        given: tuple[Any, ...] = () if condition is None else (condition,)
        x = draw_normal(shape, rng, device)
        for step in reversed(range(self.num_timesteps)):
            t = torch.full((shape[0],), step, dtype=torch.int64, device=device)
            z = draw_normal((shape[0], latent), rng, device)
            x0_hat = generator(x, t, z, *given).float()
            x = self.sample_posterior(x0_hat, x, t, draw_normal(shape, rng, device)) if step else x0_hat
        return x


def draw_normal(shape: Sequence[int], rng: Rng | None, device: torch.device) -> Tensor:
    """Standard normal float32 of a shape [B, ...]; with a generator an image (on its device) an image's numbers are its
    own."""
    if not isinstance(rng, Sequence):
        source = device if rng is None else rng.device
        return torch.randn(*shape, generator=rng, device=source).to(device)
    return torch.stack([torch.randn(*shape[1:], generator=one, device=one.device).to(device) for one in rng])


def generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """A source of noise for each index, the same for a seed and an index whatever else is drawn."""
    states = [np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] for index in indices]
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Values [B] as [B, 1, ...], to multiply what has further axes."""
    return values.view(-1, *(1,) * (like.ndim - 1))
