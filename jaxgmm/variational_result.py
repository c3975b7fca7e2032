"""What a fit by variational Bayes returns."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from jaxgmm import loop
from jaxgmm.loop import Status
from jaxgmm.posterior import Posterior
from jaxgmm.result import message_of, shown

ADVICE = loop.ADVICE | {
    Status.ITERATION_LIMIT: loop.OUT_OF_PASSES,
    Status.DECREASED: "the evidence bound fell by more than rounding explains at iteration {n_iter}; the better posterior was "
    "kept. Scale the features alike, or use float64.",
    Status.NONFINITE: "the evidence bound became NaN or infinite at iteration {n_iter}; the posterior is the last finite one. "
    "Look for NaN in X, scale the features alike, use float64, or lower n_components.",
}


class VariationalLanes(NamedTuple):
    """How each restart ended; the arrays have a leading axis of R restarts."""

    bound: Array  # (R,) nats
    n_iter: Array  # (R,) int32
    status: Array  # (R,) int32, see Status
    trace: Array  # (R, T)


class VariationalResult(NamedTuple):
    """A posterior and how the fit ended. Under ``vmap`` every array has leading axes more.

    Attributes:
      posterior: over mixtures; ``posterior.mixture`` is its expectation.
      bound: () nats, the evidence bound of ``posterior``: a lower bound of ln p(X), all constants included, so that numbers of
        components and structures may be compared by it.
      n_iter: () int32, passes over X after the one that evaluated the start.
      status: () int32, see ``Status``.
      trace: (T,) nats, the bound after each pass, the start first, NaN after the end.
      lanes: every restart's end; ``lanes.bound`` (R,) and so on.

    >>> import jax, jaxgmm
    >>> result = jaxgmm.fit_variational(jax.random.key(0), [[0.0], [0.2], [9.0], [9.2]], 2, n_restarts=3)
    >>> bool(result.converged), result.lanes.bound.shape
    (True, (3,))
    >>> result  # doctest: +ELLIPSIS
    <VariationalResult: K = 2, D = 1, full, bound ... nats; converged after ... iterations.>
    """

    posterior: Posterior
    bound: Array
    n_iter: Array
    status: Array
    trace: Array
    lanes: VariationalLanes

    def __repr__(self) -> str:
        """See ``shown``."""
        return shown(self, "posterior", "bound")

    @property
    def converged(self) -> Array:
        """() bool: did the gain of a step fall below the tolerance?"""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status as a sentence that says what to do.

        Raises:
          ValueError: a batch of results; take one first.

        >>> import jax, jaxgmm
        >>> jaxgmm.fit_variational(jax.random.key(0), [[0.0], [0.2], [9.0]], 1, max_iter=0, n_restarts=1).message
        'not converged after 0 iterations. Raise max_iter, or raise tol.'
        """
        return message_of(self, ADVICE)
