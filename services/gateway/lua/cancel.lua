-- Cancels a booked contact that may no longer take place, and returns what it had reserved.
--
-- KEYS  1 decision  2 contacts  3 reserved  4 outbox  5 reserved by arm
-- ARGV  1 decision id
--
-- Answers 1 if it was booked until now
local decision = redis.call('HMGET', KEYS[1], 'booking', 'reserved_cents', 'arm')
if decision[1] ~= 'booked' then return 0 end
if not integers({decision[2] or '', redis.call('GET', KEYS[3]) or '0'}, -2 ^ 53) then return bad_argument('cancel') end
redis.call('HSET', KEYS[1], 'booking', 'cancelled')
redis.call('ZREM', KEYS[2], ARGV[1])
uncount_message(KEYS[1])
give_back(decision[2], decision[3], KEYS[3], KEYS[5])
redis.call('XADD', KEYS[4], '*', 'decision', ARGV[1])
return 1
