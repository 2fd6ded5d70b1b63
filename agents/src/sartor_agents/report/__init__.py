"""`report.html`: a run told in one self-contained page."""
