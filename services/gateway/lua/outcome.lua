-- Records an outcome once; an opt-out closes every channel of the customer at once.
--
-- KEYS  1 generation  2 decision  3 opt-out  4 outbox
-- ARGV  1 outcome     2 time, ms  3 decision id  4 the customer's pseudonym
--
-- Answers 'lost' | 'unknown' | 'known' | 'recorded'
if redis.call('EXISTS', KEYS[1]) == 0 then return 'lost' end
if not integers({ARGV[2]}, 0) then return bad_argument('outcome') end
-- An opt-out holds, and is told, even where the decision was lost; 2 says that it was told, 1 only that it holds.
local news = ARGV[1] == 'opted_out' and redis.call('GET', KEYS[3]) ~= '2'
if ARGV[1] == 'opted_out' then redis.call('SET', KEYS[3], 2) end
local known = redis.call('EXISTS', KEYS[2]) == 1
if known then news = redis.call('HSETNX', KEYS[2], 'outcome:' .. ARGV[1], ARGV[2]) == 1 end
if known and news then count_message(KEYS[2], ARGV[1], 1) end
if news then
  redis.call('XADD', KEYS[4], '*', 'outcome', ARGV[1], 'decision', ARGV[3], 'customer', ARGV[4], 'at_ms', ARGV[2])
end
if not known then return 'unknown' end
return news and 'recorded' or 'known'
