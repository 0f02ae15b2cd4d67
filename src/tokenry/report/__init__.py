"""One look for everything tokenry shows: a self-contained HTML page, token heat-maps, tables, charts.

A page is drawn from a record (`tokenry.core.records`) and from nothing else; the same record always gives the same bytes.
"""

from tokenry.report.page import render_report
from tokenry.report.table import comparison_table, findings

__all__ = ["comparison_table", "findings", "render_report"]
