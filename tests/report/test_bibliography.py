"""The BibTeX of what a run used: every paper that an attack names is there, once, with what a citation needs."""

import json
import re

from segrobust.core.rows import Condition
from segrobust.report import build_report
from segrobust.report.bibliography import FILE, bibliography, number

KNOWN = json.loads(FILE.read_text(encoding="utf-8"))


def keys(*conditions):
    return re.findall(r"@\w+\{(\w+),", bibliography(conditions))


def test_every_attack_with_a_paper_has_its_entry(repository):
    catalogue = json.loads((repository / "segrobust/attacks/catalogue.json").read_text())
    papers = {name: facts["paper"] for name, facts in catalogue.items() if facts["paper"]}
    assert len(papers) > 15
    for name, paper in papers.items():
        found = bibliography([Condition("attack", name, "Linf", 0.1, fields={"type": name})])
        known = KNOWN["papers"][number(paper)]
        assert f"title = {{{known['title']}}}" in found, name
        assert (f"eprint = {{{number(paper)}}}" in found) == paper.startswith("arXiv "), name


def test_entries_are_whole_and_named_once():
    assert len({paper["key"] for paper in KNOWN["papers"].values()}) == len(KNOWN["papers"])
    for arxiv, paper in KNOWN["papers"].items():
        assert set(paper) - {"booktitle"} == {"key", "title", "author", "year"}
        assert all(", " in name for name in paper["author"].split(" and "))
        assert paper["title"].count("{") == paper["title"].count("}")
        if re.fullmatch(r"\d{4}\.\d{4,5}", arxiv):
            assert 0 <= paper["year"] - (2000 + int(arxiv[:2])) <= 2  # printed within two years of its preprint
        else:
            assert paper["booktitle"] and str(paper["year"]) in arxiv


def test_the_papers_of_what_was_used_and_no_others():
    assert keys() == ["segrobust"]
    plain = {"type": "CEPGD", "optimiser": "pgd", "radius_reduction": False}
    assert keys(Condition("attack", "a", "Linf", 0.1, fields=plain)) == ["segrobust", "madry2018towards"]
    apgd = {"type": "TsallisPGD", "optimiser": "apgd", "radius_reduction": True}
    expected = ["segrobust", "croce2020reliable", "croce2024towards", "matyasko2026tsallispgd"]
    assert keys(Condition("attack", "a", "Linf", 0.1, fields=apgd)) == expected
    assert keys(Condition("corruption", "fog", severity=3)) == ["segrobust", "hendrycks2019benchmarking"]
    patch = Condition("universal", "patch", fields={"type": "UniversalPatch"})
    assert keys(patch) == ["segrobust", "brown2017adversarial", "nesti2022evaluating"]


def test_members_of_an_ensemble_and_attacks_of_ones_own():
    members = {"type": "Standard", "attacks": [{"type": "SegPGD"}, {"type": "Square"}]}
    assert keys(Condition("attack", "Standard", "Linf", 0.1, fields=members)) == [
        "segrobust", "andriushchenko2020square", "gu2022segpgd",
    ]  # fmt: skip
    assert keys(Condition("attack", "Mine", "Linf", 0.1, fields={"type": "Mine", "optimiser": ["x"]})) == ["segrobust"]


def test_the_page_has_them(make_run):
    page = build_report([make_run()]).read_text()
    assert "title = {Towards Deep Learning Models Resistant to Adversarial Attacks}" in page
    assert "matyasko2026tsallispgd" in page and "gu2022segpgd" not in page
