"""What the generator counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SOURCES = Counter("generator_messages_total", "Messages given out, by source.", ["source"])
REJECTED = Counter("generator_candidates_rejected_total", "Texts of the model that were not kept.", ["reason"])
LANGUAGE_FALLBACKS = Counter(
    "generator_language_fallbacks_total", "Briefs in a language without approved texts, which got English."
)
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
ENGINE_FAILURES = Counter("generator_engine_failures_total", "Writes that came to nothing, by reason.", ["reason"])
# By server, so that an engine that has none is not said to miss it.
ENGINE_UP = Gauge("generator_engine_up", "1 while the vLLM server answers.", ["server"])
ENGINE_RUNNING = Gauge("generator_engine_running", "Texts that the vLLM server is writing.", ["server"])
ENGINE_WAITING = Gauge("generator_engine_waiting", "Texts that wait in the vLLM server's queue.", ["server"])
ENGINE_CACHE_USE = Gauge(
    "generator_engine_kv_cache_use", "Share of the vLLM server's KV cache in use, 0 to 1.", ["server"]
)
FILL_SECONDS = Gauge("generator_bank_fill_seconds", "How long the last filling of the bank took.")

# There before their first event, so that a first increase is seen.
for fault in ("retired", "shield", "unreviewed"):
    REJECTED.labels(fault)
for why in ("evidence", "person"):
    RETIRED.labels(why)
for reason in ("away", "broken", "busy", "garbage", "late", "refused"):
    ENGINE_FAILURES.labels(reason)
for reason in ("away", "full"):
    STORE_FAILURES.labels(reason)
