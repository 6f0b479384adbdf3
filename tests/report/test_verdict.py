"""What stands first on the page: what survives, what it cost, which command made it."""

import json
import re

import pytest

from segrobust.report import build_report
from segrobust.report.runs import command_line, load_runs
from segrobust.report.texts import duration
from segrobust.report.verdict import cost, threat_models, verdict


def loaded(folder):
    (run,) = load_runs([folder])
    return run


def changed(folder, change):
    records = json.loads((folder / "summary.json").read_text())
    change(records)
    (folder / "summary.json").write_text(json.dumps(records))
    return loaded(folder)


def test_the_clean_score_and_the_worst_case_at_the_largest_radius(make_run):
    run = loaded(make_run())
    clean, worst = verdict(run)
    assert clean.text == "On 4 clean images, with 95 % intervals" and clean.record is run.clean
    assert worst.text == "Within Linf 4/255, under CEPGD and TsallisPGD"
    assert (worst.record["study"], worst.record["eps"]) == ("worst_case", 4 / 255)
    page = " ".join(re.sub("<[^>]*>", "", build_report([run.path]).read_text()).split())
    (low, high), record = worst.record["ci"]["mIoU"], worst.record
    assert (
        f"{worst.text}: {record['mIoU']:.2f}&nbsp;% mIoU ({low:.1f}\u2013{high:.1f}), {record['aAcc']:.2f}&nbsp;%"
        in page
    )
    assert page.index(worst.text) < page.index("Threat model") < page.index("Score against radius")


def test_noise_is_not_counted_among_the_attacks(make_run):
    run = loaded(make_run(attacks=("CEPGD", "CosPGD", "UniformNoise", "TsallisPGD")))
    assert "under the worst of 3 attacks on each image" in verdict(run)[1].text


@pytest.mark.parametrize(
    ("median", "bounds", "said"),
    [
        (0.5 / 255, [0.25 / 255, 1 / 255], "breaks half of the images within 0.5/255 (95 % interval 0.25\u20131/255)"),
        (0.5 / 255, None, "breaks half of the images within 0.5/255"),
        (None, [0.25 / 255, None], "does not break half of the images"),
    ],
)
def test_the_median_of_a_minimum_norm_attack(make_run, median, bounds, said):
    alma = {"study": "attack", "name": "ALMAProx", "norm": "Linf", "eps": None, "median_distance": median}

    def with_median(records):
        records.append({**records[0], **alma, "ci": {"median_distance": bounds}})

    assert verdict(changed(make_run(), with_median))[-1].text == f"ALMAProx (Linf) {said}"


def test_means_over_corruptions_and_the_worst_universal_change(make_run):
    def more(records):
        base = {**records[0], "norm": None, "eps": None}
        records += [{**base, "study": "universal", "name": name, "mIoU": at} for name, at in (("a", 40.0), ("b", 30.0))]
        for severity in (1, None):
            mean = {"study": "corruption", "name": "mean", "severity": severity, "types": 7, "mIoU": 20.0}
            records.append({**base, **mean})

    mean, universal = verdict(changed(make_run(), more))[-2:]
    assert (
        mean.text == "Under common corruptions, mean over 7 types, all severities" and mean.record["severity"] is None
    )
    assert universal.text == "Under one change for all images, b" and universal.record["mIoU"] == 30.0


def test_cost_counts_every_pass_once(make_run):
    """Four images: 1 + 0 clean, 101 + 100 under two attacks at two radii; a search counts for all its radii once."""
    run = loaded(make_run())
    assert cost(run) == "3,220 passes over 4 images (1,620 forward, 1,600 backward), 5 seconds"

    def searched(records):
        alma = {**records[1], "name": "ALMAProx", "forwards": 10, "backwards": 5, "seconds": 3600.0}
        records += [{**alma, "eps": None, "median_distance": 0.1}, alma, {**alma, "eps": 4 / 255}]

    assert cost(changed(run.path, searched)) == (
        "3,280 passes over 4 images (1,660 forward, 1,620 backward), 1.0 hours"
    )


def test_durations():
    assert [duration(seconds) for seconds in (41, 780, 8640)] == ["41 seconds", "13 minutes", "2.4 hours"]


def test_threat_models_in_words(make_run):
    runs = load_runs([make_run("a"), make_run("b", norm="L2")])
    linf, l2, knows = threat_models(runs)
    assert linf == "Linf: every channel of every pixel may change by at most eps, with images in [0, 1]."
    assert (
        l2.startswith("L2: the Euclidean length")
        and knows == "The attacker knows the model, its weights and the labels."
    )
    transfer = load_runs([make_run("c", attacks=("CEPGD@other",), surrogate="other")])
    assert threat_models(transfer) == [linf]


def test_the_command_can_be_typed_again_and_names_no_folder():
    words = ["evaluate", "configs/x.py", "/home/alice/w.pth", "--attack", "tsallis-pgd(q_start=-3)", "--eps", "1/255"]
    command = "segrobust evaluate configs/x.py w.pth --attack 'tsallis-pgd(q_start=-3)' --eps 1/255"
    assert " ".join(command_line(words)) == " ".join(command_line(words[1:])) == command
    assert command_line(["benchmark", "x.py"]) == ("segrobust", "benchmark", "x.py")
    assert command_line(None) == command_line([]) == command_line([1]) == ()


def test_the_page_shows_the_command_where_there_is_one(make_run):
    folder = make_run()
    assert "<span>&#39;cepgd(steps=100)&#39;</span>" in build_report([folder]).read_text()
    run = json.loads((folder / "run.json").read_text())
    del run["about"]["options"]
    (folder / "run.json").write_text(json.dumps(run))
    assert "<b>Command" not in build_report([folder]).read_text()


def test_runs_of_one_command_show_it_once(make_run):
    def told(*options):
        folders = [make_run(name) for name in ("a", "b", "c")[: len(options)]]
        for folder, words in zip(folders, options, strict=True):
            run = json.loads((folder / "run.json").read_text())
            run["about"]["options"] = ["benchmark", words]
            (folder / "run.json").write_text(json.dumps(run))
        return re.findall("<b>Command([^<]*)</b>", build_report(folders, folders[0] / "all.html").read_text())

    assert told("x.py", "x.py", "x.py") == [" of all"]
    assert told("x.py", "y.py", "x.py") == [" of a, c", " of b"]
    assert told("x.py") == [""]
