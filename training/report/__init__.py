"""The report on the results, written from result files: no figure in it is typed by hand."""

from training.report.files import ReportError
from training.report.page import write

__all__ = ["ReportError", "write"]
