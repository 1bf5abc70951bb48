"""What the generator counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SOURCES = Counter("generator_messages_total", "Messages given out, by source.", ["source"])
REJECTED = Counter("generator_candidates_rejected_total", "Texts of the model that were not kept.", ["reason"])
BRIEFS = Gauge("generator_bank_briefs", "Briefs that the bank has a message for.")
BRIEFS_WANTED = Gauge("generator_bank_briefs_wanted", "Briefs that the bank is to have a message for.")
QUEUE_DEPTH = Gauge("generator_queue_depth", "Briefs of requests that wait for the model, or are being written.")
FILL_SECONDS = Gauge("generator_bank_fill_seconds", "How long the last filling of the bank took.")

REJECTED.labels("shield")  # there before its first event, so that a first increase is seen
