-- Adds contacts that a gateway's journal knows, with what they reserved, to a ledger that may know them already.
--
-- KEYS  six a contact: contacts of the customer, reserved by the campaign, the customer's keys, whom it contacts,
--       the decision, reserved by arm
-- ARGV  1 record lifetime, s; then five a contact: decision id, time in ms, cents, the customer's pseudonym, arm
--
-- Answers how many were new
local new = 0
for i = 0, #KEYS / 6 - 1 do
  local contacts, reserved, customer, contacted, decision, by_arm = unpack(KEYS, 6 * i + 1, 6 * i + 6)
  local id, at_ms, cents, ref, arm = unpack(ARGV, 5 * i + 2, 5 * i + 6)
  if not integers({at_ms, cents, redis.call('GET', reserved) or '0'}, -2 ^ 53) or not integers({ARGV[1]}, 1) then
    return bad_argument('restore')
  end
  local booking = redis.call('HGET', decision, 'booking')
  -- Of what it has the record of, the ledger knows itself whether it takes place and what it reserved.
  if not booking and redis.call('SET', contacted, ref, 'NX', 'EX', ARGV[1]) then
    redis.call('INCRBY', reserved, cents)
    redis.call('HINCRBY', by_arm, arm, cents)
    new = new + 1
  end
  if not booking or booking == 'booked' or booking == 'released' then
    -- A contact that was sent stands at the later time, at which another gateway released it.
    redis.call('ZADD', contacts, 'GT', at_ms, id)
    redis.call('EXPIRE', contacts, ARGV[1])
    redis.call('SADD', customer, contacts, contacted)
    redis.call('EXPIRE', customer, ARGV[1])
  end
end
return new
