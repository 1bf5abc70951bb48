-- Adds a decision that was answered without the ledger, and withdraws what its request may have booked all the
-- same: the script ran, but its reply came too late. What the caller was told first is what stands.
--
-- KEYS  1 idempotency  2 the decision that was answered  3 the one that may have been booked
--       4 contacts  5 reserved  6 outbox  7 the customer's keys, for erasure  8 reserved by arm
-- ARGV  1 token, which is the id of the one that may have been booked
--       2 id of the decision that was answered  3 its record  4 its answer  5 sha256 of the body
--       6 idempotency lifetime, s  7 record lifetime, s
--
-- Answers {} | {'kept', send time in ms, cents, arm}: booked, and another caller was told of it before
local found = redis.call('HMGET', KEYS[3], 'booking', 'reserved_cents', 'standing', 'told', 'arm')
local key = redis.call('HMGET', KEYS[1], 'token', 'told')
local contact = found[1] == 'booked' or found[1] == 'released'
if not integers({ARGV[6], ARGV[7]}, 1)
  or (contact and not integers({found[2] or '', redis.call('GET', KEYS[5]) or '0'}, -2 ^ 53)) then
  return bad_argument('settle')
end

local own_key = key[1] == ARGV[1]
local told = found[1] == 'released' or found[4] or (own_key and key[2])
local send_ms = redis.call('ZSCORE', KEYS[4], ARGV[1])
if found[1] and not told then
  redis.call('HSET', KEYS[3], 'booking', 'withdrawn')
  redis.call('XADD', KEYS[6], '*', 'decision', ARGV[1])
  if found[3] and redis.call('GET', found[3]) == KEYS[3] then redis.call('DEL', found[3]) end
  if contact then
    redis.call('ZREM', KEYS[4], ARGV[1])
    uncount_message(KEYS[3])
    give_back(found[2], found[5], KEYS[5], KEYS[8])
  end
end

redis.call('HSET', KEYS[2], 'record', ARGV[3], 'answer', ARGV[4], 'booking', 'none')
redis.call('EXPIRE', KEYS[2], ARGV[7])
redis.call('HSETNX', KEYS[1], 'body', ARGV[5])
-- With an answer under the key, a booking that is still on its way books nothing.
if own_key and not key[2] then
  redis.call('HSET', KEYS[1], 'answer', ARGV[4])
else
  redis.call('HSETNX', KEYS[1], 'answer', ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('SADD', KEYS[7], KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[7], ARGV[7])
redis.call('XADD', KEYS[6], '*', 'decision', ARGV[2])
if contact and told and send_ms then return {'kept', send_ms, found[2], found[5] or 'champion'} end
return {}
