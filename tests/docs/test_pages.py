"""What the pages, README and CITATION.cff say beside what the code says."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

import segrobust
from segrobust.models.shipped import zoo
from tests.docs.snippets import PAGES, ROOT

ROBUST, STANDARD = "camvid-fpn-r18w24-sharppgdat-long-linf4-180x240", "camvid-fpn-r18w24-std-180x240"


def text(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def test_every_trust_check_is_explained_and_bold_where_it_is_essential():
    from segrobust.checks.runner import CHECKS

    rows = re.findall(r"^\| (\*\*)?([^|*]+?)(?:\*\*)? \| [^|]+ \| [^|]*(?:warns|fails)[^|]* \| [^|]+ \|$",
                      text("trust.md"), re.M)  # fmt: skip
    assert [(name, bool(bold)) for bold, name in rows if name != "check"] == [
        (one.name, one.essential) for one in CHECKS
    ]
    assert f"ends with {len(CHECKS)} checks" in text("trust.md")


def test_every_attack_is_in_a_table():
    from segrobust.attacks import ATTACKS

    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*$", text("attacks.md"), re.M))))
    assert {name for name, one in ATTACKS.items() if one.__module__.startswith("segrobust.")} <= named


def test_everything_that_is_exported_is_in_the_api():
    import segrobust.hooks as hooks

    documented = set(re.findall(r"auto\w+:: (?:[\w.]+\.)?(\w+)$", text("api.md"), re.M))
    assert {*segrobust.__all__, *hooks.__all__} - documented == {"__version__"}


def test_the_floors_that_contributors_read_are_those_of_the_house():
    from tests.test_layers import FLOORS

    listed = re.search(r"one list of floors: (.*?);", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))[1]
    floors = [name for names in FLOORS for name in names if name != "__main__"]
    assert [name for name in re.findall(r"`(\w+)`", listed) if name in floors] == floors


def test_protocols_that_a_page_names_exist():
    from segrobust.datasets.protocols import PROTOCOLS

    named = re.findall(r"`((?:voc|ade|city)\d*[\w-]*-[\w-]+)`", text("papers.md"))
    assert len(named) >= 6 and set(named) <= set(PROTOCOLS)


@pytest.mark.parametrize(
    ("page", "name"), [("models.md", name) for name in zoo()] + [("README.md", name) for name in (STANDARD, ROBUST)]
)
def test_scores_of_the_shipped_models_are_those_of_their_configs(page, name):
    content = json.loads(zoo()[name].config_path.read_text(encoding="utf-8"))
    (row,) = re.findall(rf"^\| `{name}` \|(?:[^|]+\|)? ([\d.]+) \| ([\d.]+) \|$", text(page), re.M)
    assert float(row[0]) == content["declared"]["mIoU"]
    assert float(row[1]) == content["robust"]["scores"]["worst case 4/255"][1]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    content = text("README.md")
    assert len(content.splitlines()) <= 100
    links = [link for link in re.findall(r"\]\(([^)#]+)", content) if "://" not in link]
    assert len(links) >= 8 and not [link for link in links if not (ROOT / link).is_file()]


def test_the_citation_is_valid():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0" and content["type"] == "software" and content["license"] == "Apache-2.0"
    assert content["version"] == segrobust.__version__ and content["title"] and content["message"]
    assert all(set(one) <= {"name", "family-names", "given-names", "orcid"} and one for one in content["authors"])
    allowed = {"abstract", "authors", "cff-version", "keywords", "license", "message", "title", "type", "version",
               "references"}  # fmt: skip
    assert set(content) <= allowed
    for one in content.get("references", ()):
        assert {"type", "title", "authors"} <= set(one) and all("family-names" in author for author in one["authors"])


def test_work_dirs_stands_in_the_tree_and_its_contents_are_ignored():
    if not (ROOT / ".git").exists():
        pytest.skip("no git here")

    def ignored(name: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0

    assert (ROOT / "work_dirs" / "README.md").is_file() and not ignored("work_dirs/README.md")
    assert ignored("work_dirs/mine/run.json") and ignored("docs/_build/html/index.html")
