"""The report: draws what economics computed, and computes nothing."""
