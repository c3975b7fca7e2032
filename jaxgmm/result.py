"""What a fit returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxgmm import checks, loop
from jaxgmm.loop import Status
from jaxgmm.params import GMMParams


class Lanes(NamedTuple):
    """How each restart ended; the arrays have a leading axis of R restarts."""

    log_likelihood: Array  # (R,) nats
    n_iter: Array  # (R,) int32
    status: Array  # (R,) int32, see Status
    trace: Array  # (R, T)
    log_posterior: Array  # (R,) nats


class FitResult(NamedTuple):
    """A fitted mixture and how the fit ended. Under ``vmap`` every array has leading axes more.

    Attributes:
      params: the mixture, its components in no particular order.
      log_likelihood: () of ``params``, a sum over samples, nats.
      n_iter: () int32, passes over X after the one that evaluated the start.
      status: () int32, see ``Status``.
      trace: (T,) nats, ``log_posterior`` of the parameters held after each pass, the start first, NaN after the end.
      lanes: every restart's end; ``lanes.status`` (R,) and so on.
      log_posterior: () what the fit raises: the log-likelihood plus ln p of the prior, if there is one (see ``Prior``), nats.

    >>> import jax, jaxgmm
    >>> result = jaxgmm.fit(jax.random.key(0), [[0.0], [0.2], [9.0], [9.2]], 2, covariance_type="tied", n_restarts=3)
    >>> bool(result.converged), result.lanes.status.shape
    (True, (3,))
    >>> result  # doctest: +ELLIPSIS
    <FitResult: K = 2, D = 1, tied, log-likelihood 0.76... nats; converged after ... iterations.>
    """

    params: GMMParams
    log_likelihood: Array
    n_iter: Array
    status: Array
    trace: Array
    lanes: Lanes
    log_posterior: Array

    def __repr__(self) -> str:
        """See ``shown``."""
        return shown(self, "params", "log_likelihood")

    @property
    def converged(self) -> Array:
        """() bool: did the gain of a step fall below the tolerance, at a mixture that is not degenerate?"""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status as a sentence that says what to do.

        Raises:
          ValueError: a batch of results; take one first.

        >>> import jax, jaxgmm
        >>> jaxgmm.fit(jax.random.key(0), [[0.0], [0.2], [9.0]], 1, max_iter=0, n_restarts=1).message.split(".")[0]
        'not converged after 0 iterations'
        """
        return message_of(self)


def shown(result: Any, holder: str, value: str) -> str:
    """Some words where there are numbers; the fields under a trace, and where they hold something else.

    Args:
      result: a ``FitResult``, or another that has a status.
      holder: the field that knows K, D and the structure.
      value: the field with what the fit raised.
    """
    name, leaves = type(result).__name__, jax.tree.leaves(tuple(result))
    if checks.is_traced(leaves) or not all(isinstance(leaf, (np.ndarray, np.generic, Array)) for leaf in leaves):
        return f"{name}({', '.join(f'{field}={leaf!r}' for field, leaf in zip(result._fields, result, strict=True))})"
    held = getattr(result, holder)
    shape = f"K = {held.n_components}, D = {held.n_features}, {held.structure.name}"
    if result.status.ndim:
        found, counts = np.unique(np.asarray(result.status), return_counts=True)
        ends = ", ".join(f"{count} {Status(status).name}" for status, count in zip(found, counts, strict=True))
        return f"<{name} {result.status.shape}: {shape}; {ends}>"
    return f"<{name}: {shape}, {value.replace('_', '-')} {float(getattr(result, value)):.7g} nats; {result.message}>"


def message_of(result: Any, words: Mapping[Status, str] = loop.ADVICE) -> str:
    """The status of one result in ``words``."""
    if result.status.ndim:
        raise ValueError(
            f"this is a batch of {result.status.shape} results; take one with jax.tree.map(lambda x: x[i], result)."
        )
    return loop.advice(int(result.status), int(result.n_iter), words)
