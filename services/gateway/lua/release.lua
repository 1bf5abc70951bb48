-- Releases a booked contact for sending, once: opt-out, the message, cooldown and weekly cap are checked again.
--
-- KEYS  1 generation  2 decision  3 contacts  4 opt-out  5 outbox  6 what was decided about the bank's messages
-- ARGV  1 decision id 2 key of this release; the same key gets the same answer again
--       3 now, ms     4 reason of the gateway's own not to send now, or ''
--       5 cooldown, ms  6 week, ms  7 weekly cap
--
-- Answers 'lost' | 'released' now | 'again' | the reason not to send
if redis.call('EXISTS', KEYS[1]) == 0 then return 'lost' end
if not integers({ARGV[3], ARGV[5], ARGV[6], ARGV[7]}, 0) then return bad_argument('release') end

local decision = redis.call('HMGET', KEYS[2], 'booking', 'release_key')
local released = decision[1] == 'released'
if released and decision[2] ~= ARGV[2] then return 'already_released' end
if not released and decision[1] ~= 'booked' then return 'not_booked' end
if redis.call('EXISTS', KEYS[4]) == 1 then return 'do_not_contact' end
if message_is_retired(KEYS[2], KEYS[6]) then return 'message_retired' end
if ARGV[4] ~= '' then return ARGV[4] end
if released then return 'again' end

local broken = contact_rule_broken(
  KEYS[3], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
if broken then return broken end
redis.call('HSET', KEYS[2], 'booking', 'released', 'released_at_ms', ARGV[3], 'release_key', ARGV[2])
-- It was booked for the time when it was due; the rules count from when it is sent.
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('XADD', KEYS[5], '*', 'decision', ARGV[1])
return 'released'
