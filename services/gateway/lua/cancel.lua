-- Cancels a booked contact that may no longer take place, and returns what it had reserved.
--
-- KEYS  1 decision  2 contacts  3 reserved
-- ARGV  1 decision id
--
-- Answers 1 if it was booked until now
if redis.call('HGET', KEYS[1], 'booking') ~= 'booked' then return 0 end
redis.call('HSET', KEYS[1], 'booking', 'cancelled')
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[1], 'reserved_cents'))
return 1
