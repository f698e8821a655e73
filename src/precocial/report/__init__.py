"""Run folders to one HTML page. Reads files only; imports no torch."""

from precocial.report.page import write_report as write_report
