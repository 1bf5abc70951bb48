-- Records an outcome once; an opt-out closes every channel of the customer at once.
--
-- KEYS  1 generation  2 decision  3 opt-out  4 outbox
-- ARGV  1 outcome     2 time, ms  3 decision id
--
-- Answers 'lost' | 'unknown' | 'known' | 'recorded'
if redis.call('EXISTS', KEYS[1]) == 0 then return 'lost' end
if not integers({ARGV[2]}, 0) then return bad_argument('outcome') end
-- An opt-out holds even where the decision was lost.
if ARGV[1] == 'opted_out' then redis.call('SET', KEYS[3], 1) end
if redis.call('EXISTS', KEYS[2]) == 0 then return 'unknown' end
if redis.call('HSETNX', KEYS[2], 'outcome:' .. ARGV[1], ARGV[2]) == 0 then return 'known' end
redis.call('XADD', KEYS[4], '*', 'outcome', ARGV[1], 'decision', ARGV[3])
return 'recorded'
