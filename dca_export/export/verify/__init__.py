"""Is a file what its source says? Its entries, its values, and whether anything of the source is missing."""

from dca_export.export.verify.check import Report, TypeReport, scheme_text, verify

__all__ = ["Report", "TypeReport", "scheme_text", "verify"]
