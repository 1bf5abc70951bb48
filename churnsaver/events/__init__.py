"""Events about checkpoints over Pub/Sub.

They are hints and nothing more: whoever gets one looks into the registry, and a timer does the same when
none comes. So nothing here raises or blocks because Pub/Sub is down.
"""

from churnsaver.checkpoints.checkpoint import KINDS
from churnsaver.events.event import new_event
from churnsaver.events.publisher import EventPublisher
from churnsaver.events.subscriber import checkpoint_events
from churnsaver.events.where import PubSub, find_pubsub
from churnsaver.rpc.stubs.events.v1.checkpoint_event_pb2 import CheckpointEvent

__all__ = ["KINDS", "CheckpointEvent", "EventPublisher", "PubSub", "checkpoint_events", "find_pubsub", "new_event"]
