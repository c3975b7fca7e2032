"""Suite settings: strict promotion, two virtual devices, shapes checked, x64 off and on in one process."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

install_import_hook("jaxgmm", "typecheck.internal")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
)
"""XLA compiles in a quarter of the time with these (DECISIONS 52), and the suite compiles thousands of programs to run each
on a few dozen samples. XLA reads its flags when the first array is made."""


def pytest_addoption(parser):
    parser.addoption("--optimised", action="store_true", help="programs as XLA compiles them for users: twice as long")
    parser.addoption("--every-form", action="store_true", help="all forms of a pass, even for samples as few as here")


def pytest_configure(config):
    if not config.getoption("--optimised"):
        os.environ["XLA_FLAGS"] = QUICK_TO_COMPILE + os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    if config.getoption("--every-form"):
        from jaxgmm import contract

        contract.SMALL = 0


@pytest.fixture(autouse=True)
def settings():
    """Every test leaves JAX's own settings as they were."""
    before = dict(jax.config.values)
    yield
    assert dict(jax.config.values) == before


MOST_MAPS = 15_000
"""Regions of memory from which on compiled programs are dropped: each has some, Linux allows a process 65,530, and
XLA's compiler ends in a segmentation fault beyond."""


def pytest_runtest_teardown():
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Computation in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    """Both precisions, each under its own setting of x64."""
    with jax.enable_x64(request.param is np.float64):
        yield request.param


@pytest.fixture(params=[pytest.param(np.float32, marks=pytest.mark.slow), np.float64], ids=["float32", "float64"])
def dtype_float32_slow(request):
    """Both precisions where compiling twice takes minutes: float32 among the slow tests."""
    with jax.enable_x64(request.param is np.float64):
        yield request.param
