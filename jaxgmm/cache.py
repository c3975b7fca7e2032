"""Compiled programs that outlive the process."""

from __future__ import annotations

import os
from pathlib import Path

import jax

LEAST_SECONDS = 0.1
"""Programs that compile faster are not worth a file."""


def keep_compiled(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs in a folder, so that the next process finds them: JAX's persistent compilation cache, switched on.

    The command line does so by itself. Call it before the first fit; it serves everything that JAX compiles in this process.

    Args:
      folder: made where it does not exist. None: the one that JAX is set to, by ``JAX_COMPILATION_CACHE_DIR`` or in Python, or
        else ``jaxgmm`` in ``XDG_CACHE_HOME`` or ``~/.cache``.

    Returns:
      The folder, or None where it cannot be made (a read-only home): then nothing is kept, and nothing fails.

    >>> import tempfile, jaxgmm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxgmm.keep_compiled(folder).name in folder
    True
    >>> jax.config.update("jax_compilation_cache_dir", None)
    """
    folder = folder or jax.config.values["jax_compilation_cache_dir"]
    folder = Path(folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgmm")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return folder
