-- Claims an idempotency key and reads what a decision needs to know, in one step.
--
-- KEYS  1 generation  2 idempotency  3 standing decision  4 contacts  5 opt-out  6 reserved  7 reserved by arm
-- ARGV  1 sha256 of the body  2 token  3 claim lifetime, ms  4 oldest contact of interest, ms  5 arm
--
-- An answer that leaves here is marked as told: it is not withdrawn any more (settle.lua).
--
-- Answers {'lost'} | {'mismatch'} | {'in_flight'} | {'replay', answer} | {'standing', answer}
--       | {'claimed', opted out 0/1, reserved cents, those of the arm, contact times in ms …}
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'lost'}
end
if not integers({ARGV[3]}, 1) or not integers({ARGV[4]}, -2 ^ 53) then return bad_argument('claim') end

local claim = redis.call('HMGET', KEYS[2], 'body', 'answer', 'token')
if claim[1] then
  if claim[1] ~= ARGV[1] then return {'mismatch'} end
  if claim[2] then
    redis.call('HSET', KEYS[2], 'told', 1)
    return {'replay', claim[2]}
  end
  -- Run again after a lost reply, it holds the key already.
  if claim[3] ~= ARGV[2] then return {'in_flight'} end
end
redis.call('HSET', KEYS[2], 'body', ARGV[1], 'token', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])

local standing = redis.call('GET', KEYS[3])
if standing and stands(standing, KEYS[5]) then
  local answer = redis.call('HGET', standing, 'answer')
  if answer then
    redis.call('HSET', standing, 'told', 1)
    return {'standing', answer}
  end
end

local reply = {
  'claimed',
  redis.call('EXISTS', KEYS[5]),
  tonumber(redis.call('GET', KEYS[6]) or '0'),
  tonumber(redis.call('HGET', KEYS[7], ARGV[5]) or '0'),
}
for _, time_ms in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], ARGV[4], '+inf', 'WITHSCORES')) do
  table.insert(reply, time_ms)
end
return reply
