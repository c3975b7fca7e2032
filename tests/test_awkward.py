"""No awkward input on which scikit-learn is right and we are not; the table is that of awkward.py."""

import pytest
from awkward import cases, judge

CASES = cases()


def test_the_table_is_long():
    assert len(CASES) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_we_are_not_worse(name):
    verdict, theirs, ours = judge(CASES[name])
    assert verdict != "worse", (theirs, ours)
