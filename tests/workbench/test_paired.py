"""Paired tests and plans against Tango's paper, R's PropCIs, statsmodels, scipy and full enumeration."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from workbench import paired

Z90 = scipy.stats.norm.ppf(0.95)


@st.composite
def tables(draw) -> tuple[int, int, int]:
    n = draw(st.integers(1, 400))
    gained = draw(st.integers(0, n))
    return gained, draw(st.integers(0, n - gained)), n


def all_tables(n: int, gain: float, loss: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gained, lost = (a.ravel() for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    fits = gained + lost <= n
    gained, lost = gained[fits], lost[fits]
    counts = np.stack([gained, lost, n - gained - lost], -1)
    return gained, lost, scipy.stats.multinomial.pmf(counts, n, [gain, loss, 1 - gain - loss])


def test_tango_gives_the_numbers_of_the_paper():
    # Tango (1998), section 6.1: 44 pairs, 43 both effective, one only under the standard; margin 0.1.
    assert round(paired.tango_statistic(0, 1, 44, -0.1), 3) == 1.709
    low = paired.tango_interval(0, 1, 44, level=0.90).low
    assert low is not None and round(low, 3) == -0.096


@pytest.mark.parametrize(
    ("gained", "lost", "n", "level", "low", "high"),
    [
        (60, 20, 1000, 0.95, 0.0231, 0.0584),  # PropCIs::scoreci.mp(20, 60, 1000)
        (20, 60, 1000, 0.95, -0.0584, -0.0231),
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # PropCIs::scoreci.mp(25, 28, 618)
        (48, 41, 549, 0.90, -0.0157, 0.0414),
    ],
)
def test_tango_interval_equals_propcis(gained, lost, n, level, low, high):
    ours = paired.tango_interval(gained, lost, n, level=level)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=6e-5)


@given(tables())
def test_tango_at_zero_is_mcnemar(table):
    gained, lost, n = table
    expected = (gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
    assert paired.tango_statistic(gained, lost, n, 0.0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("margin", "n"), [(0.01, 268), (0.02, 133), (0.05, 52)])
def test_tango_without_flips_certifies_from_the_known_number_of_items(margin, n):
    low, fewer = paired.tango_interval(0, 0, n, level=0.9).low, paired.tango_interval(0, 0, n - 1, level=0.9).low
    assert low is not None and fewer is not None
    assert low >= -margin > fewer


@settings(deadline=None)
@given(tables(), st.sampled_from([0.8, 0.9, 0.95]))
def test_tango_interval_is_where_the_test_stops_rejecting(table, level):
    gained, lost, n = table
    ours = paired.tango_interval(gained, lost, n, level=level)
    mirrored = paired.tango_interval(lost, gained, n, level=level)
    assert ours.low is not None and ours.high is not None and mirrored.low is not None and mirrored.high is not None
    assert -1 <= ours.low <= ours.value <= ours.high <= 1
    assert (ours.low, ours.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)
    z = scipy.stats.norm.ppf((1 + level) / 2)
    if -0.999 < ours.low < ours.value - 1e-6:
        assert paired.tango_statistic(gained, lost, n, ours.low) == pytest.approx(z, abs=1e-4)


def test_tango_variance_is_the_restricted_maximum_likelihood():
    gained, lost, n, at = 7, 12, 150, -0.03
    q = np.linspace(0.03 + 1e-7, 0.5, 2_000_001)
    likelihood = gained * np.log(q + at) + lost * np.log(q) + (n - gained - lost) * np.log1p(-2 * q - at)
    best = q[likelihood.argmax()]
    expected = (gained - lost - n * at) / math.sqrt(n * (2 * best + at * (1 - at)))
    assert paired.tango_statistic(gained, lost, n, at) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("gained", "lost", "n", "at"), [(0, 0, 60, -0.05), (2, 1, 60, -0.05), (5, 3, 40, -0.1)])
def test_exact_p_equals_full_enumeration(gained, lost, n, at):
    seen = paired.tango_statistic(gained, lost, n, at)
    flips = gained + lost
    most = scipy.stats.beta.ppf(1 - 0.5e-4, flips + 1, n - flips)
    least = scipy.stats.beta.ppf(0.5e-4, flips, n - flips + 1) if flips else 0.0
    worst = 0.0
    for changing in np.linspace(max(least, -at), most, 300):
        rose, fell, chance = all_tables(n, (changing + at) / 2, (changing - at) / 2)
        worst = max(worst, chance[paired.tango_statistic(rose, fell, n, at) >= seen - 1e-9].sum())
    assert paired.exact_p(gained, lost, n, at) == pytest.approx(worst + 1e-4, abs=5e-4)


@pytest.mark.parametrize(("margin", "n"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_exact_p_without_flips_is_the_binomial_rule(margin, n):
    assert paired.exact_p(0, 0, n, -margin) == pytest.approx((1 - margin) ** n + 1e-4, abs=1e-6)
    assert paired.exact_p(0, 0, n, -margin) <= 0.05 < paired.exact_p(0, 0, n - 1, -margin)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_p_equals_scipy_and_statsmodels(gained, lost):
    ours = paired.mcnemar_loss_p(gained, lost)
    if gained + lost == 0:
        assert ours == 1.0
        return
    assert ours == pytest.approx(scipy.stats.binomtest(lost, gained + lost, 0.5, alternative="greater").pvalue)
    if gained != lost:
        two_sided = mcnemar([[0, gained], [lost, 0]], exact=True).pvalue
        smaller = min(ours, paired.mcnemar_loss_p(lost, gained))
        assert 2 * smaller == pytest.approx(two_sided)


def test_sign_flip_p_of_few_clusters_is_the_exact_permutation_test():
    rng = np.random.default_rng(5)
    values, groups = rng.normal(-0.3, 1, size=30), np.arange(30) // 3
    sums = np.bincount(groups, values)
    expected = scipy.stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf
    ).pvalue
    assert paired.sign_flip_loss_p(values, groups, rng=rng) == pytest.approx(expected)


@pytest.mark.parametrize("clusters", [60, 3000])
def test_sign_flip_p_of_many_clusters_is_near_the_t_test(clusters):
    rng = np.random.default_rng(6)
    values = rng.normal(-1.2 / math.sqrt(clusters), 1, size=clusters)
    expected = scipy.stats.ttest_1samp(values, 0, alternative="less").pvalue
    ours = paired.sign_flip_loss_p(values, rng=rng)
    # 200 hits or 10,000 draws: five standard errors of the coarser, and what t and permutation differ by.
    assert ours == pytest.approx(expected, abs=5 * expected / math.sqrt(200) + 0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_equal_statsmodels(p_values):
    assert paired.adjust_holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert paired.adjust_benjamini_hochberg(p_values) == pytest.approx(expected, abs=1e-12)


def test_enrichment_is_fishers_test_topic_by_topic():
    topics = ["optics"] * 20 + ["tides"] * 50 + ["law"] * 30
    flipped = [i < 9 or i % 25 == 0 for i in range(100)]
    rows = paired.enrichment(topics, flipped)
    assert rows[0].topic == "optics" and (rows[0].flips, rows[0].items) == (9, 20)
    total = sum(flipped)
    for row in rows:
        rest = total - row.flips
        grid = [[row.flips, row.items - row.flips], [rest, 100 - row.items - rest]]
        assert row.p == pytest.approx(scipy.stats.fisher_exact(grid, alternative="greater").pvalue)
    assert [r.q for r in rows] == pytest.approx(multipletests([r.p for r in rows], method="fdr_bh")[1])


def test_intraclass_correlation_of_a_worked_example():
    # Shrout and Fleiss (1979), table 2: four judges, six targets; ICC(1,1) = 0.17.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    ours = paired.intraclass_correlation(np.ravel(ratings).astype(float), np.repeat(np.arange(6), 4))
    assert ours is not None and round(ours, 2) == 0.17


def test_intraclass_correlation_of_unequal_clusters_is_recovered():
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 12, size=4000)
    groups = np.repeat(np.arange(4000), sizes)
    values = math.sqrt(0.3) * rng.normal(size=4000)[groups] + math.sqrt(0.7) * rng.normal(size=len(groups))
    assert paired.intraclass_correlation(values, groups) == pytest.approx(0.3, abs=0.04)
    assert paired.intraclass_correlation(values, np.arange(len(values))) is None


def test_plan_follows_the_textbook_table_where_many_items_change():
    table = {
        0.05: (12366, 3092, 773, 344, 124),
        0.10: (24731, 6183, 1546, 687, 248),
        0.20: (49461, 12366, 3092, 1374, 495),
    }
    for discordance, row in table.items():
        for margin, expected in zip((0.005, 0.01, 0.02, 0.03, 0.05), row, strict=True):
            assert paired.mean_items_needed(variance=discordance, margin=margin) == pytest.approx(expected, abs=1)
            # Tango's variance is the larger one, so its plan asks for more, and for much more at few changes.
            ours = paired.items_needed(discordance=discordance, margin=margin)
            assert ours is not None and expected <= ours <= expected * 1.35


@pytest.mark.parametrize(("margin", "n"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_plan_without_any_change_is_the_exact_rule(margin, n):
    assert paired.items_needed(discordance=0.0, margin=margin) == n
    assert paired.pass_probability(n, discordance=0.0, margin=margin) == 1.0
    assert paired.pass_probability(n - 1, discordance=0.0, margin=margin) == 0.0
    assert paired.items_needed(discordance=0.0, margin=margin, design_effect=2.0) == pytest.approx(2 * n, abs=1)


@given(
    st.floats(0.01, 0.5),
    st.sampled_from([0.01, 0.02, 0.05]),
    st.floats(-0.9, 0.9),
    st.floats(1, 4),
    st.sampled_from([0.6, 0.8, 0.95]),
)
def test_plan_and_chance_to_pass_are_inverse(discordance, margin, share, effect, power):
    difference = share * min(margin, discordance)
    terms = {"discordance": discordance, "margin": margin, "difference": difference, "design_effect": effect}
    n = paired.items_needed(power=power, **terms)
    assert n is not None
    assert paired.pass_probability(n, **terms) >= power - 1e-9
    assert paired.pass_probability(n - 1.001, **terms) < power
    assert paired.items_needed(discordance=0.3, margin=margin, difference=-margin) is None


@pytest.mark.parametrize(("discordance", "margin"), [(0.02, 0.05), (0.05, 0.05), (0.1, 0.05)])
def test_planned_chance_is_that_of_all_tables(discordance, margin):
    n = paired.items_needed(discordance=discordance, margin=margin)
    assert n is not None
    gained, lost, chance = all_tables(n, discordance / 2, discordance / 2)
    passed = chance[paired.tango_statistic(gained, lost, n, -margin) >= Z90].sum()
    assert 0.8 <= passed <= 0.87


def test_bootstrap_t_widens_the_side_of_the_skew_and_matches_t_without_skew():
    rng = np.random.default_rng(8)
    normal = scipy.stats.norm.ppf((np.arange(200) + 0.5) / 200)
    ours = paired.bootstrap_t_interval(normal, rng=rng, level=0.9)
    low, high = scipy.stats.t.interval(0.9, 199, loc=0, scale=scipy.stats.sem(normal))
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.015)
    skewed = -np.r_[np.zeros(15), [0.2, 0.2, 0.4, 1.0, 1.0]]
    ours = paired.bootstrap_t_interval(skewed, rng=rng, level=0.9)
    assert ours.low is not None and ours.high is not None
    assert ours.value - ours.low > 1.3 * (ours.high - ours.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: paired.tango_interval(1, 1, 0),
        lambda: paired.tango_interval(3, 3, 5),
        lambda: paired.mcnemar_loss_p(-1, 2),
        lambda: paired.adjust_holm([1.2]),
        lambda: paired.enrichment(["a"], []),
        lambda: paired.design_effect([], 0.1),
        lambda: paired.items_needed(discordance=0.01, margin=0.02, difference=-0.05),
        lambda: paired.items_needed(discordance=0.01, margin=0.0),
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_sign_flip_keeps_its_level_when_nothing_changed():
    rng = np.random.default_rng(9)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=8)))
    sizes = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    p = np.array([paired.sign_flip_loss_p(row * sizes, rng=rng) for row in signs])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p <= level) <= level
