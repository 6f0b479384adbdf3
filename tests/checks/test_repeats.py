"""Where no two runs of an attack are equal, honest models are not called defective, and defective attacks are."""

from __future__ import annotations

import pytest
import torch

from segrobust.checks import recomputed
from segrobust.checks.again import Trace
from segrobust.checks.attack import nothing_missed
from segrobust.checks.context import Context
from segrobust.checks.integrity import repeatable
from segrobust.checks.probe import Difference
from segrobust.checks.repeats import apart
from segrobust.core.rows import Condition, Row
from segrobust.models.segmenter import Segmenter
from tests.checks.looking import BEST, PATHS, REPEATS, VOID, context, levels, look
from tests.checks.models import INEXACT, Forgetful, K, NoisyGradient, segmenter
from tests.checks.test_known_bad import CountsVoid
from tests.checks.test_tampered import change, of, rows_of

AGAIN = "one process finds the same integers"
CLEAN = torch.zeros(1, 3, 10, 10)
MANY = {"attacks": ["TsallisPGD", "SharpPGD", "ALMAProx", "FMN"]}


def inexact(size: float) -> Segmenter:
    return Segmenter.wrap(NoisyGradient(size), num_classes=K, name="inexact").eval()


# --- void


@pytest.mark.parametrize("attacks", [["CEPGD"], MANY["attacks"]], ids=["one", "many"])
@pytest.mark.parametrize("name", INEXACT)
def test_a_little_noise_fails_nothing(name, attacks, tmp_path):
    found = look(segmenter(name), tmp_path, attacks=attacks)
    assert not levels(found, "fail")
    assert [found[check]["verdict"] for check in (VOID, BEST, PATHS)] == ["pass"] * 3
    assert found[REPEATS]["verdict"] == ("info" if name == "noisy_forward" else "pass")
    if len(attacks) > 1:  # more than a sign of the gradient is looked at
        assert 0 < found[VOID]["numbers"]["largest_between_repeats"] < 0.05
        assert "as far as it repeats at all (FMN: " in found[VOID]["evidence"]
        assert "3 times as much would count" in found[VOID]["evidence"]


@pytest.mark.parametrize("size", [1e-3, 0.1])
def test_much_noise_is_warned_of_where_it_hides_what_is_looked_for(size, tmp_path):
    found = look(inexact(size), tmp_path, attacks=["CEPGD", "ALMAProx"])
    assert found[VOID]["verdict"] == ("warn" if size == 0.1 else "pass") and not levels(found, "fail")
    assert (found[VOID]["numbers"]["largest_between_repeats"] > 0.05) == (size == 0.1)


@pytest.mark.parametrize("name", ["small", *INEXACT])
def test_an_attack_that_looks_at_void_labels_fails_with_noise_and_without(name, tmp_path):
    found = look(segmenter(name), tmp_path, attacks=["FMN", CountsVoid(eps="8/255", steps=5)])[VOID]
    assert found["verdict"] == "fail" and found["numbers"]["moved"] == ["CountsVoid"]


def test_where_repeats_differ_visibly_the_evidence_says_by_how_much(tmp_path):
    found = look(inexact(1e-4), tmp_path, attacks=[CountsVoid(eps="8/255", steps=5)])[VOID]
    assert found["verdict"] == "fail" and "of its perturbation between the two" in found["evidence"]
    assert found["numbers"]["largest_between"] > 10 * found["numbers"]["largest_between_repeats"] > 0


def runs(*values: tuple[float, ...]):
    """Two runs whose images are of these values, one after the other; a value is that of half of an image."""
    return tuple(iter_of(one).__next__ for one in values)


def iter_of(values: tuple[float, ...]):
    half = torch.zeros_like(CLEAN)
    half[..., :5] = 1
    return iter([CLEAN + 0.1 + value * half for value in values])


@pytest.mark.parametrize(
    ("one", "other", "repeats", "differs"),
    [
        ((0.0,), (0.0,), True, False),  # and neither is run twice
        ((0.0, 0.0), (1e-6, 1e-6), True, True),  # any difference counts where everything repeats
        ((0.0, 0.0), (1e-4, 1e-4), False, False),  # by chance, of repeats that are alike
        ((0.0, 0.0), (3e-4, 3e-4), False, True),  # a thousandth of the perturbation and more
        ((0.0, 0.01), (0.04, 0.05), True, False),  # the least of four is three times the largest of two
        ((0.0, 0.01), (0.05, 0.06), True, True),
        ((0.0, 0.0), (0.05, 0.0), True, False),  # one run of four went elsewhere
        ((0.05, 0.0), (0.0, 0.0), True, False),
    ],
)
def test_what_counts_as_a_difference(one, other, repeats, differs):
    found = apart(runs(one, other), CLEAN, repeats)
    assert found.differs == differs
    if len(one) == 1:
        assert (found.between, found.within) == (0, 0)


# --- rows


def tampered(folder, name: str) -> None:
    """A pixel of a condition's rows becomes right."""
    rows = rows_of(folder)
    for counts in (row["counts"] for row in of(folder, rows, name)):
        at = max(range(len(counts["fn"])), key=counts["fn"].__getitem__)
        counts["tp"][at] += 1
        counts["fn"][at] -= 1
    change(folder, rows)


def looked(model: Segmenter, folder, fact: str | None = None) -> Context:
    found = context(model, folder)
    if fact:
        found.run["identity"]["repeatable"] = fact
    return found


def test_rows_of_attacks_that_do_not_repeat_are_compared_by_what_they_reach(tmp_path):
    look(inexact(0.1), tmp_path, checks=False)
    found = repeatable(looked(inexact(0.05), tmp_path))
    assert found.level in ("info", "warn") and found.numbers["differing"]
    assert "that does not repeat here" in found.evidence
    assert found.level == (
        "warn" if found.numbers["points"] > max(0.5, 3 * found.numbers["points_between_repeats"]) else "info"
    )


@pytest.mark.parametrize(("noise", "level"), [(0.5, "warn"), (1.0, "info")])
def test_changed_rows_of_a_run_that_says_it_does_not_repeat(noise, level, tmp_path, monkeypatch):
    """A pixel of these small images is 0.4 to 0.9 points."""
    look(segmenter("small"), tmp_path, checks=False)
    tampered(tmp_path, "CEPGD")
    monkeypatch.setattr(recomputed, "NOISE", noise)
    assert repeatable(looked(segmenter("small"), tmp_path)).level == "fail"
    assert repeatable(looked(segmenter("small"), tmp_path, "yes")).level == "fail"
    found = repeatable(looked(segmenter("small"), tmp_path, "no (upsample_bilinear2d_backward)"))
    assert found.level == level and found.numbers["points_between_repeats"] == 0


def test_changed_rows_of_clean_images_fail_where_forwards_repeat(tmp_path):
    look(inexact(0.01), tmp_path, checks=False)
    tampered(tmp_path, "clean")
    assert repeatable(looked(inexact(0.01), tmp_path, "no (upsample_bilinear2d_backward)")).level == "fail"


def test_points_between_rows():
    one = Condition("attack", "CEPGD")

    def row(image: int, wrong: int) -> Row:
        return Row(image, one, {"classes": [0], "tp": [10 - wrong], "fp": [0], "fn": [wrong]})

    assert recomputed.points_apart([row(0, 1), row(1, 2)], [row(0, 4), row(1, 2)]) == pytest.approx(30)
    assert recomputed.points_apart([row(0, 1)], [row(1, 1)]) == float("inf")


# --- forwards, and the best image


def test_a_difference_beyond_another():
    rounding = Difference(changed=0, pixels=10**6, largest=1e-6)
    some = Difference(changed=90, pixels=10**6, largest=9e-4)
    more = Difference(changed=0, pixels=10**6, largest=2e-3)
    other = Difference(changed=5000, pixels=10**6, largest=9e-4)
    assert more.beyond(rounding, 3) and not more.beyond(some, 3)
    assert other.beyond(rounding, 3) and other.beyond(some, 3)
    assert not other.beyond(Difference(changed=2000, pixels=10**6), 3)


@pytest.mark.parametrize(
    ("seen", "again", "level"),
    [
        ((0.0, 0.0), None, "pass"),  # and nothing is traced again
        ((0.0, 4.0), (0.0, 4.0), "fail"),
        ((0.0, 4.0), (4.0, 0.0), "pass"),  # what one misses the other finds: chance
        ((4.0, 4.0), (3.9, 4.0), "fail"),  # 3.95 in both, which differ by 0.05
        ((4.0, 0.0), (2.0, 0.0), "warn"),  # 1 in both, which differ by 1
        ((5.0, 0.0), (3.0, 0.0), "warn"),  # 1.5 in both: to fail it would take more than 1 and 3 times the 1 between
    ],
)
def test_the_best_image_is_missed_again_where_the_attack_misses_it(seen, again, level, tmp_path, monkeypatch):
    look(segmenter("small"), tmp_path, checks=False)
    attack = CountsVoid(eps="8/255", steps=5)

    def traces(missed: tuple[float, ...]) -> list[Trace]:
        return [Trace(attack, 50.0, 50.0, one) for one in missed]

    monkeypatch.setattr("segrobust.checks.attack.traces", lambda _: traces(seen))
    monkeypatch.setattr("segrobust.checks.attack.traced_again", again and (lambda _: traces(again)))
    found = nothing_missed(context(segmenter("small"), tmp_path))
    assert found.level == level and ("does not repeat" in found.evidence) == (again not in (None, seen))


def test_an_attack_that_returns_where_it_began_fails_with_noise_too(tmp_path):
    assert look(inexact(1e-6), tmp_path, attacks=[Forgetful()], eps=["32/255"])[BEST]["verdict"] == "fail"
