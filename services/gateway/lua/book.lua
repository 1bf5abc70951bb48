-- Books a decision: hard rules once more, budget, record, stored answer and outbox, all or nothing.
--
-- KEYS  1 generation  2 idempotency  3 standing decision  4 contacts  5 opt-out  6 reserved
--       7 decision    8 outbox       9 the customer's keys, for erasure
-- ARGV  1 token        2 send time, ms ('' when nobody is contacted)  3 cents to reserve
--       4 budget cents 5 cooldown, ms  6 week, ms  7 weekly cap  8 oldest contact of interest, ms
--       9 decision id  10 record  11 answer  12 answer if refused, with @@REASON@@ for the reason
--       13 idempotency lifetime, s  14 epoch, s  15 record lifetime, s
--
-- Answers {'lost'} | {'replay', answer} | {'superseded'} | {'standing', answer}
--       | {'none' or 'booked', answer} | {reason of refusal, answer}
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'lost'}
end

local claim = redis.call('HMGET', KEYS[2], 'token', 'answer')
if claim[2] then return {'replay', claim[2]} end
-- The claim ran out and somebody else holds the key now: they answer, we do not book.
if claim[1] and claim[1] ~= ARGV[1] then return {'superseded'} end

local standing = redis.call('GET', KEYS[3])
if standing then
  local answer = redis.call('HGET', standing, 'answer')
  if answer then return {'standing', answer} end
end

local function refusal(send_ms, cents)
  if redis.call('EXISTS', KEYS[5]) == 1 then return 'do_not_contact' end
  local in_week = 0
  local contacts = redis.call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES')
  for i = 2, #contacts, 2 do
    local distance = math.abs(tonumber(contacts[i]) - send_ms)
    if distance < tonumber(ARGV[5]) then return 'cooldown' end
    if distance < tonumber(ARGV[6]) then in_week = in_week + 1 end
  end
  if in_week >= tonumber(ARGV[7]) then return 'weekly_cap' end
  if tonumber(redis.call('GET', KEYS[6]) or '0') + cents > tonumber(ARGV[4]) then return 'budget' end
  return nil
end

local status, answer = 'none', ARGV[11]
if ARGV[2] ~= '' then
  local send_ms, cents = tonumber(ARGV[2]), tonumber(ARGV[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. ARGV[8])
  local reason = refusal(send_ms, cents)
  if reason then
    status = reason
    answer = string.gsub(ARGV[12], '@@REASON@@', reason)
  else
    status = 'booked'
    redis.call('ZADD', KEYS[4], send_ms, ARGV[9])
    redis.call('EXPIRE', KEYS[4], ARGV[15])
    redis.call('INCRBY', KEYS[6], cents)
  end
end

redis.call('HSET', KEYS[7], 'record', ARGV[10], 'answer', answer, 'booking', status, 'reserved_cents', ARGV[3])
redis.call('EXPIRE', KEYS[7], ARGV[15])
redis.call('SET', KEYS[3], KEYS[7], 'EX', ARGV[14])
redis.call('HSET', KEYS[2], 'answer', answer)
redis.call('EXPIRE', KEYS[2], ARGV[13])
redis.call('XADD', KEYS[8], '*', 'decision', ARGV[9])
redis.call('SADD', KEYS[9], KEYS[2], KEYS[3], KEYS[4], KEYS[7])
redis.call('EXPIRE', KEYS[9], ARGV[15])
return {status, answer}
