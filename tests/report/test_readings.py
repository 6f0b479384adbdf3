"""Fields that records have or have not: readings of mIoU, pixels by object size, convergence."""

import json
import re

import pytest

from segrobust.core.errors import UserError
from segrobust.report import build_report
from segrobust.report.convergence import convergence_figures, last_gains
from segrobust.report.curves import COLOURS
from segrobust.report.readings import miou_readings, size_table
from segrobust.report.runs import load_runs
from tests.report.test_curves import marker_places, texts


def with_fields(folder, made):
    """The folder after ``made(record)`` was added to each record of its summary."""
    records = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps([{**record, **made(record)} for record in records]))
    return folder


def loaded(folder):
    (run,) = load_runs([folder])
    return run


def sizes(*rights):
    return [
        {"upto": u, "right": r, "pixels": n}
        for u, r, n in zip((1024, 9216, None), rights, (100, 300, 600), strict=True)
    ]


def trace(record):
    """An attack's error after 0, 10, ... 100 passes, which no longer grows in its last fifth at 1/255."""
    if record["study"] != "attack":
        return {}
    late = 0.0 if record["eps"] < 2 / 255 else 4.0
    return {"convergence": [[n, 20.0 + min(n, 80) / 4 + (late if n == 100 else 0)] for n in range(0, 101, 10)]}


def test_nothing_is_shown_where_the_fields_are_absent(make_run):
    absent = ("mIoU_images", "mIoU_without_background", "sizes", "convergence")
    folder = make_run()
    file = folder / "summary.json"
    records = [{k: v for k, v in one.items() if k not in absent} for one in json.loads(file.read_text())]
    file.write_text(json.dumps(records))
    run = loaded(folder)
    assert miou_readings(run) is None and size_table(run) is None and convergence_figures([run], "Linf") == []
    page = build_report([run.path]).read_text()
    for title in ("Readings of mIoU", "Right by object size", "Convergence"):
        assert title not in page


def test_readings_of_miou(make_run):
    folder = with_fields(make_run(), lambda record: {"mIoU_images": record["mIoU"] / 2})
    run = loaded(folder)
    found = miou_readings(run)
    assert found.titles == ["of the data set", "mean over images"]
    assert [line[0] for line in found.lines] == ["clean", "worst case, Linf 1/255", "worst case, Linf 4/255"]
    clean = run.clean["mIoU"]
    assert found.lines[0][1:] == [f"{clean:.2f}", f"{clean / 2:.2f}"]
    run = loaded(with_fields(folder, lambda record: {"mIoU_without_background": 12.25}))
    assert miou_readings(run).titles[2] == "of the data set, without background"
    assert {line[3] for line in miou_readings(run).lines} == {"12.25"}
    page = build_report([folder]).read_text()
    assert "mean over images" in page and "without background" in page


def test_pixels_by_object_size(make_run):
    folder = with_fields(make_run(), lambda record: {"sizes": sizes(50.0, 70.5, None if record["eps"] else 90.0)})
    found = size_table(loaded(folder))
    assert found.titles == [
        "up to 32 x 32 px (10.0 % of the pixels)",
        "up to 96 x 96 px (30.0 % of the pixels)",
        "over 96 x 96 px (60.0 % of the pixels)",
    ]
    assert found.lines[0] == ["clean", "50.00", "70.50", "90.00"]
    assert found.lines[2] == ["worst case, Linf 4/255", "50.00", "70.50", "-"]
    assert "Right by object size" in build_report([folder]).read_text()


def test_convergence_is_drawn_true_to_scale_and_its_end_is_told(make_run):
    folder = with_fields(make_run(), trace)
    run = loaded(folder)
    ((title, svg),) = convergence_figures([run], "Linf")
    assert title == "mine" and {"Linf 1/255", "Linf 4/255", "backward passes per image", "wrong pixels (%)"} <= set(
        texts(svg)
    )
    (x0, y0), (x1, y1), (x2, y2), *_ = marker_places(svg, COLOURS[0])
    assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-3) and y1 - y0 == pytest.approx(y2 - y1, rel=1e-3)
    assert y0 > y1  # SVG counts downwards, the error grows
    assert last_gains(run) == [
        ("CEPGD (Linf) 1/255", 0.0), ("CEPGD (Linf) 4/255", 4.0),
        ("TsallisPGD (Linf) 1/255", 0.0), ("TsallisPGD (Linf) 4/255", 4.0),
    ]  # fmt: skip
    text = " ".join(re.sub("<[^>]*>", "", build_report([folder]).read_text()).split())
    assert "the last fifth of the passes added, in points: CEPGD (Linf) 1/255 +0.00, CEPGD (Linf) 4/255 +4.00" in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sizes": [{"right": "x"}]}, "sizes: expected a number"),
        ({"convergence": [[1]]}, "convergence: expected passes and an error"),
        ({"convergence": [[1, "<b>"]]}, "convergence: expected a number"),
        ({"mIoU_images": "<b>"}, "mIoU_images: expected a number"),
        ({"mIoU_without_background": []}, "mIoU_without_background: expected a number"),
    ],
)
def test_what_is_no_number_is_refused(make_run, fields, said):
    folder = with_fields(make_run(), lambda record: fields)
    with pytest.raises(UserError, match=said):
        load_runs([folder])
