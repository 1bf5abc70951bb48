-- Deletes everything that is kept of a customer, but that they opted out, and tells every gateway to do the same.
--
-- KEYS  1 the customer's keys  2 erasures
-- ARGV  1 the customer's pseudonym  2 how many erasures are kept
--
-- Answers how many keys were deleted
local deleted = 0
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do deleted = deleted + redis.call('DEL', key) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'customer', ARGV[1])
return deleted + redis.call('DEL', KEYS[1])
