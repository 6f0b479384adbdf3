"""One self-contained HTML file and one terminal table over the summaries of one or several runs.

build_report([Path("work_dirs/standard"), Path("work_dirs/robust")], Path("compared.html"))
export([Path("work_dirs/standard")], csv=Path("standard.csv"), figures=Path("figures"))
"""

from segrobust.report.build import build_report
from segrobust.report.export import export

__all__ = ["build_report", "export"]
