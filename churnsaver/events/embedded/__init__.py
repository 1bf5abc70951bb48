"""A server of google.pubsub.v1 for one machine: the local stack's Pub/Sub, without Docker, Java or the cloud.

`python -m churnsaver.events.embedded` serves topics, subscriptions (pull, streaming pull, push, and lines of
files in a folder that stands for a bucket), ordering keys, filters, dead letters, retry policies, exactly-once
acknowledgements, snapshots and seek to Google's own clients. Whatever it acknowledges is on the disk first.
Schemas, transforms and export to BigQuery are refused with UNIMPLEMENTED, as are the calls that are not there;
a topic's own retention is ignored, and there is no access control. Attempts
are counted, and unused subscriptions timed, from the server's start.

To read it: `subscription.py` is what one subscription knows of its messages, `state.py` everything that
outlives a restart and how it changes, `broker.py` the calls, `journal.py` the disk, `servicer.py` gRPC.
"""
