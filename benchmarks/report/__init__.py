"""The page on performance, written from result files: no figure in it is typed by hand."""

from benchmarks.report.files import ReportError
from benchmarks.report.page import write

__all__ = ["ReportError", "write"]
