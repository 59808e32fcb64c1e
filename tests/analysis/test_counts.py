"""Counts a sample against a reference, with numbers that were worked out by hand."""

import math

import pandas as pd
import pytest

from hemolens.analysis.counts import count_agreement
from hemolens.errors import UserError


def counts(rbc, wbc, samples=("a", "b", "c", "d")):
    return pd.DataFrame({"sample": samples, "n_RBC": rbc, "n_WBC": wbc})


def test_by_hand():
    # differences of RBC: +2, -4, 0, +6: mean 1, mean size 3, variance (1 + 25 + 1 + 25) / 3
    reference, found = counts([100, 200, 300, 400], [0, 0, 0, 0]), counts([102, 196, 300, 406], [0, 1, 0, 0])
    rbc, wbc = count_agreement(found, reference, ["RBC", "WBC"]).to_dict("records")
    assert (rbc["class"], rbc["samples"], rbc["found"], rbc["reference"]) == ("RBC", 4, 1004, 1000)
    assert (rbc["mean_absolute_error"], rbc["bias"]) == (3, 1)
    assert rbc["relative_error"] == pytest.approx(0.004)
    sd = math.sqrt(52 / 3)
    assert (rbc["limit_low"], rbc["limit_high"]) == pytest.approx((1 - 1.959964 * sd, 1 + 1.959964 * sd), rel=1e-6)
    assert rbc["bias_high"] == pytest.approx(1 + 3.182446 * sd / 2, rel=1e-6)  # t of 3 degrees of freedom
    assert (wbc["mean_absolute_error"], wbc["bias"]) == (0.25, 0.25) and math.isnan(wbc["relative_error"])


def test_order_and_the_two_rows_of_a_sample_do_not_matter():
    reference = counts([1, 2, 3, 4], [5, 6, 7, 8])
    found = pd.concat([reference.assign(indices_of="RBC"), reference.assign(indices_of="RBC+ARBC")]).iloc[::-1]
    table = count_agreement(found, reference, ["RBC", "WBC"])
    assert (table.mean_absolute_error == 0).all() and (table.samples == 4).all() and (table.limit_high == 0).all()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (counts([1, 2, 3, 4], [0] * 4).drop(columns="n_WBC"), "found: no column n_WBC"),
        (counts([1, 2, 3, 4], [0] * 4, ("a", "b", "c", "e")), "2 samples are in one table alone; the first is d"),
        (counts([1, 2, 3, 4], [0] * 4, ("a", "b", "c", "c")), "sample c have different counts"),
        (counts([1, 2, 3, -4], [0] * 4), "n_RBC of sample d is -4"),
        (counts([1, 2, math.nan, 4], [0] * 4), "n_RBC of sample c is nan"),
        (counts([1, 2, 3, 4.5], [0] * 4), "n_RBC of sample d is 4.5"),
    ],
)
def test_bad_tables_are_named(found, words):
    with pytest.raises(UserError, match=words):
        count_agreement(found, counts([1, 2, 3, 4], [0] * 4), ["RBC", "WBC"])


def test_too_few_samples():
    two = counts([1, 2], [0, 0], ("a", "b"))
    with pytest.raises(UserError, match=r"2 samples: .* at least 3"):
        count_agreement(two, two, ["RBC"])
