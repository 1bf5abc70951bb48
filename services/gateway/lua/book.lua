-- Books a decision: hard rules once more, budget, record, stored answer and outbox, all or nothing.
--
-- KEYS  1 generation  2 idempotency  3 standing decision  4 contacts  5 opt-out  6 reserved
--       7 decision    8 outbox       9 the customer's keys, for erasure  10 reserved by arm
--       11 counts of the message, where it is one of the bank's
-- ARGV  1 token        2 send time, ms ('' when nobody is contacted)  3 cents to reserve
--       4 budget cents 5 cooldown, ms  6 week, ms  7 weekly cap  8 oldest contact of interest, ms
--       9 decision id  10 record  11 answer  12 answer if refused, with @@REASON@@ for the reason
--       13 idempotency lifetime, s  14 epoch, s  15 record lifetime, s  16 sha256 of the body
--       17 arm  18 its part of the budget, cents
--
-- Answers {'lost'} | {'replay', answer} | {'superseded'} | {'standing', answer}
--       | {'none' or 'booked', answer} | {reason of refusal, answer}
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'lost'}
end

local claim = redis.call('HMGET', KEYS[2], 'token', 'answer')
if claim[2] then
  -- Run again after a lost reply, it says what it did.
  local done = claim[1] == ARGV[1] and redis.call('HGET', KEYS[7], 'booking')
  return {done or 'replay', claim[2]}
end
-- The claim ran out and somebody else holds the key now: they answer, we do not book.
if claim[1] and claim[1] ~= ARGV[1] then return {'superseded'} end

local standing = redis.call('GET', KEYS[3])
if standing and stands(standing, KEYS[5]) then
  local answer = redis.call('HGET', standing, 'answer')
  if answer then
    redis.call('HSET', standing, 'told', 1)
    return {'standing', answer}
  end
end

local reserved = redis.call('GET', KEYS[6]) or '0'
local reserved_by_arm = redis.call('HGET', KEYS[10], ARGV[17]) or '0'
if not integers({ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[18]}, 0)
  or not integers({ARGV[13], ARGV[14], ARGV[15]}, 1)
  or not integers({ARGV[8], reserved, reserved_by_arm}, -2 ^ 53)
  or (ARGV[2] ~= '' and not integers({ARGV[2]}, 0)) then
  return bad_argument('book')
end

local function refusal(send_ms, cents)
  if redis.call('EXISTS', KEYS[5]) == 1 then return 'do_not_contact' end
  local broken = contact_rule_broken(
    KEYS[4], ARGV[9], send_ms, tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
  if broken then return broken end
  if tonumber(reserved) + cents > tonumber(ARGV[4]) then return 'budget' end
  if tonumber(reserved_by_arm) + cents > tonumber(ARGV[18]) then return 'budget' end
  return nil
end

local status, answer = 'none', ARGV[11]
if ARGV[2] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. ARGV[8])
  local reason = refusal(tonumber(ARGV[2]), tonumber(ARGV[3]))
  if reason then
    status = reason
    answer = string.gsub(ARGV[12], '@@REASON@@', reason)
  else
    status = 'booked'
    redis.call('ZADD', KEYS[4], ARGV[2], ARGV[9])
    redis.call('EXPIRE', KEYS[4], ARGV[15])
    redis.call('INCRBY', KEYS[6], ARGV[3])
    redis.call('HINCRBY', KEYS[10], ARGV[17], ARGV[3])
  end
end

redis.call('HSET', KEYS[7], 'record', ARGV[10], 'answer', answer, 'booking', status, 'reserved_cents', ARGV[3],
  'arm', ARGV[17], 'standing', KEYS[3])
if status == 'booked' and KEYS[11] then
  local day = math.floor(redis.call('TIME')[1] / 86400)
  redis.call('HSET', KEYS[7], 'counts', KEYS[11], 'day', day)
  add_count(KEYS[11], day, 'uses', 1)
  redis.call('EXPIRE', KEYS[11], ARGV[15])
end
redis.call('EXPIRE', KEYS[7], ARGV[15])
redis.call('SET', KEYS[3], KEYS[7], 'EX', ARGV[14])
redis.call('HSET', KEYS[2], 'body', ARGV[16], 'token', ARGV[1], 'answer', answer)
redis.call('EXPIRE', KEYS[2], ARGV[13])
redis.call('XADD', KEYS[8], '*', 'decision', ARGV[9])
redis.call('SADD', KEYS[9], KEYS[2], KEYS[3], KEYS[4], KEYS[7])
redis.call('EXPIRE', KEYS[9], ARGV[15])
return {status, answer}
