"""What a pass over the data leaves behind: sums, and sums add."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgmm.numerics import sum_compensated, two_sum


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over samples under a mixture; those of two sets of samples add up to those of both.

    Both sides of ``+`` must come from the same mixture: the moments are taken about its means.

    Attributes:
      weight: () total sample weight, sum_n w_n; N without weights.
      count: (K,) N_k = sum_n w_n gamma(z_nk), in samples.
      first: (K, D) sum_n w_n gamma(z_nk) (x_n - mu_k), data units.
      second: sum_n w_n gamma(z_nk) (x_n - mu_k)(x_n - mu_k)^T, squared data units, as much of it as the structure needs:
        (K, D, D) full, (D, D) tied, (K, D) diag and spherical; (K, Q + D, Q + 1) of factor analysers: of factors u and
        what they leave, r, sum_n w_n gamma(z_nk) (u_n, r_n) u_n^T and the squares of (u_n, r_n), numbers without unit.
      log_likelihood: () eq. (6), nats. Zero where responsibilities were given instead of computed.
      lost: () nats that rounding lost in ``log_likelihood``: the gain of a step is smaller than one rounding of the sum.

    >>> import jaxgmm
    >>> params = jaxgmm.GMMParams.from_moments([1.0], [[0.0]], [[[1.0]]])
    >>> sums = jaxgmm.statistics(params, [[1.0]]) + jaxgmm.statistics(params, [[3.0]])
    >>> sums.count.tolist(), sums.first.tolist(), sums.second.tolist()
    ([2.0], [[4.0]], [[[10.0]]])
    """

    weight: Array
    count: Array
    first: Array
    second: Array
    log_likelihood: Array
    lost: Array

    def __add__(self, other: Statistics) -> Statistics:
        log_likelihood, error = two_sum(self.log_likelihood, other.log_likelihood)
        log_likelihood, lost = two_sum(log_likelihood, self.lost + other.lost + error)
        return Statistics(
            self.weight + other.weight,
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            log_likelihood,
            lost,
        )


def sum_over(axis_name: str, statistics: Statistics) -> Statistics:
    """The sum over the devices of a mesh axis, the likelihood compensated."""
    # A one-hot row per device sums without rounding, and the result is the same on every device.
    one_hot = jnp.arange(lax.axis_size(axis_name), dtype=jnp.int32) == lax.axis_index(axis_name)
    per_device = (jnp.where(one_hot, part, 0) for part in (statistics.log_likelihood, statistics.lost))
    log_likelihood, lost = sum_compensated(*lax.psum(tuple(per_device), axis_name))
    return replace(lax.psum(statistics, axis_name), log_likelihood=log_likelihood, lost=lost)
