"""What the generator counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SOURCES = Counter("generator_messages_total", "Messages given out, by source.", ["source"])
REJECTED = Counter("generator_candidates_rejected_total", "Texts of the model that were not kept.", ["reason"])
BRIEFS = Gauge("generator_bank_briefs", "Briefs that the bank has a message for, which may be given out.")
BRIEFS_WANTED = Gauge("generator_bank_briefs_wanted", "Briefs that the bank is to have a message for.")
MESSAGES = Gauge("generator_bank_messages", "Messages that the bank holds.")
SWAP_PENDING = Gauge(
    "generator_bank_swap_pending", "1 while the former model's bank serves, for want of the new one's."
)
RETIRED = Counter("generator_bank_retired_total", "Messages that this replica retired, by whose say.", ["why"])
STORE_FAILURES = Counter(
    "generator_bank_store_failures_total", "Calls to Redis that the bank went without.", ["reason"]
)
QUEUE_DEPTH = Gauge("generator_queue_depth", "Briefs of requests that wait for the model, or are being written.")
FILL_SECONDS = Gauge("generator_bank_fill_seconds", "How long the last filling of the bank took.")

# There before their first event, so that a first increase is seen.
REJECTED.labels("shield")
for why in ("evidence", "person"):
    RETIRED.labels(why)
for reason in ("away", "full"):
    STORE_FAILURES.labels(reason)
