-- What several scripts share; it stands before each of them.
--
-- A script that fails half-way keeps what it has written until then, so each checks its numbers first.

-- Whether every value is an integer that Lua's numbers hold exactly, and `least` or more.
local function integers(values, least)
  for _, value in ipairs(values) do
    local number = string.match(value, '^-?%d+$') and tonumber(value)
    if not number or number < least or number > 2 ^ 53 then return false end
  end
  return true
end

local function bad_argument(script)
  return redis.error_reply('BADARG ' .. script .. ': a number is no integer or out of range')
end

-- The first hard rule that a contact at `at_ms` breaks beside the customer's other contacts, or nil.
local function contact_rule_broken(contacts_key, decision_id, at_ms, cooldown_ms, week_ms, weekly_cap)
  local in_week = 0
  local contacts = redis.call('ZRANGE', contacts_key, 0, -1, 'WITHSCORES')
  for i = 1, #contacts, 2 do
    if contacts[i] ~= decision_id then
      local distance = math.abs(tonumber(contacts[i + 1]) - at_ms)
      if distance < cooldown_ms then return 'cooldown' end
      if distance < week_ms then in_week = in_week + 1 end
    end
  end
  if in_week >= weekly_cap then return 'weekly_cap' end
  return nil
end

-- Whether a decision still stands: a contact does not, once the customer has opted out.
local function stands(decision, opt_out_key)
  if redis.call('EXISTS', opt_out_key) == 0 then return true end
  local booking = redis.call('HGET', decision, 'booking')
  return booking ~= 'booked' and booking ~= 'released'
end

-- Adds to what is counted of a message of the bank, in all and of the contacts that were booked on that day.
local function add_count(counts, day, name, by)
  redis.call('HINCRBY', counts, name, by)
  redis.call('HINCRBY', counts, day .. ':' .. name, by)
end

-- Adds to what is counted of the bank's message of a decision, if it has one whose counts are still kept.
local function count_message(decision, name, by)
  local counts, day = unpack(redis.call('HMGET', decision, 'counts', 'day'))
  if counts and day and redis.call('EXISTS', counts) == 1 then add_count(counts, day, name, by) end
end

-- Whether a person or the evidence has retired a decision's message of the bank since.
local function message_is_retired(decision, judgements)
  local counts = redis.call('HGET', decision, 'counts')
  local judged = counts and redis.call('HGET', judgements, string.match(counts, '[^:]*$'))
  if not judged then return false end
  local read, judgement = pcall(cjson.decode, judged)
  return read and type(judgement) == 'table' and judgement.verdict == 'retired'
end

-- Takes back what was counted of a decision whose contact does not take place, and counts nothing of it any more.
local function uncount_message(decision)
  count_message(decision, 'uses', -1)
  for _, field in ipairs(redis.call('HKEYS', decision)) do
    local outcome = string.match(field, '^outcome:(.+)$')
    if outcome then count_message(decision, outcome, -1) end
  end
  redis.call('HDEL', decision, 'counts')
end

-- Gives back what a decision had reserved, to its campaign and, where it names one, to its arm.
local function give_back(cents, arm, reserved_key, by_arm_key)
  redis.call('DECRBY', reserved_key, cents)
  if arm then redis.call('HINCRBY', by_arm_key, arm, -cents) end
end
