-- Adds contacts that a gateway's journal knows, with what they reserved, to a ledger that may know them already.
--
-- KEYS  two a contact: contacts of the customer, reserved by the campaign
-- ARGV  three a contact: decision id, time in ms, cents
--
-- Answers how many were new
local new = 0
for i = 1, #KEYS / 2 do
  local id, at_ms, cents = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local reserved = redis.call('GET', KEYS[2 * i]) or '0'
  if not integers({at_ms, cents, reserved}, -2 ^ 53) then return bad_argument('restore') end
  -- A contact that was sent stands at the later time, at which another gateway released it.
  if redis.call('ZADD', KEYS[2 * i - 1], 'GT', at_ms, id) == 1 then
    redis.call('INCRBY', KEYS[2 * i], cents)
    new = new + 1
  end
end
return new
