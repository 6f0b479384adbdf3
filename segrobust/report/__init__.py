"""One self-contained HTML file and one terminal table over the summaries of one or several runs.

build_report([Path("work_dirs/standard"), Path("work_dirs/robust")], Path("compared.html"))
"""

from segrobust.report.build import build_report

__all__ = ["build_report"]
