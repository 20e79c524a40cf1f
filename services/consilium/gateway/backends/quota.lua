-- Keys, quotas and kept documents, in the server: each function is one round trip and atomic. HASH is replaced by a digest of this text.
-- A bucket is a hash: r (requests left), t (tokens left; below 0 is debt), tpm, at (Unix seconds). It is dropped once it has been full for a day: an answer may take
-- long, and what it used more than was taken is settled at its end.
-- What takes or gives has a name of its own, under which its answer is remembered for a while: sent twice, because the first answer was lost, it is done once.

local REMEMBERED_S = 60
local KEPT_S = 90000

local function once(name, work)
  local known = redis.call('GET', name)
  if known then return cjson.decode(known) end
  local answer, has_changed = work()
  if has_changed then redis.call('SET', name, cjson.encode(answer), 'EX', REMEMBERED_S) end
  return answer
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function left(limit, count)
  if limit == 0 then return -1 end
  return math.max(0, math.floor(count))
end

-- Returns {allowed, what ran out (0 nothing, 1 requests, 2 tokens), seconds to wait, requests left, tokens left}; -1 is no limit.
-- Secondly whether the bucket was changed: who is refused over and over again leaves nothing in the server.
-- `burst` requests are there at first and at most, `rpm` come back in a minute. Taken are the tokens, or all that a full bucket has.
local function fill_and_take(bucket, rpm, tpm, tokens, burst)
  local time = now()
  local old = redis.call('HMGET', bucket, 'r', 't', 'at')
  local passed = math.max(0, time - (tonumber(old[3]) or time)) / 60
  local most = rpm
  if burst > 0 then most = burst end
  local r = math.min(most, (tonumber(old[1]) or most) + passed * rpm)
  local t = math.min(tpm, (tonumber(old[2]) or tpm) + passed * tpm)
  local need = math.min(tokens, tpm)
  if rpm > 0 and r < 1 then
    return {0, 1, string.format('%.6f', (1 - r) * 60 / rpm), left(rpm, r), left(tpm, t)}, false
  end
  if tpm > 0 and t < need then
    return {0, 2, string.format('%.6f', (need - t) * 60 / tpm), left(rpm, r), left(tpm, t)}, false
  end
  r = r - 1
  t = t - need
  redis.call('HSET', bucket, 'r', string.format('%.9f', r), 't', string.format('%.9f', t), 'tpm', tpm, 'at', string.format('%.6f', time))
  local lack = 0
  if rpm > 0 then lack = (most - r) / rpm end
  if tpm > 0 then lack = math.max(lack, (tpm - t) / tpm) end
  redis.call('EXPIRE', bucket, math.ceil(lack * 60) + KEPT_S)
  return {1, 0, '0', left(rpm, r), left(tpm, t)}, true
end

local function take(bucket, name, rpm, tpm, tokens, burst)
  if rpm == 0 and tpm == 0 then return {1, 0, '0', -1, -1} end
  return once(name, function() return fill_and_take(bucket, rpm, tpm, tokens, burst) end)
end

-- keys: bucket, name of this call; args: rpm, tpm, tokens, burst.
local function reserve(keys, args)
  return take(keys[1], keys[2], tonumber(args[1]), tonumber(args[2]), tonumber(args[3]), tonumber(args[4]))
end

-- keys: key, bucket, name of this call; args: digest, tokens. Returns {fields of the key, verdict}; a key that is not good costs nothing.
local function check(keys, args)
  local fields = redis.call('HGETALL', keys[1])
  local key = {}
  for place = 1, #fields, 2 do key[fields[place]] = fields[place + 1] end
  local ends = tonumber(key.expires) or 0
  if key.hmac ~= args[1] or (tonumber(key.revoked) or 0) > 0 or (ends > 0 and now() >= ends) then
    return {fields, {1, 0, '0', -1, -1}}
  end
  return {fields, take(keys[2], keys[3], tonumber(key.rpm) or 0, tonumber(key.tpm) or 0, tonumber(args[2]), tonumber(key.burst) or 0)}
end

local function correct(keys, args)
  local old = redis.call('HMGET', keys[1], 't', 'tpm')
  if not old[1] then return 0, false end
  local tpm = tonumber(old[2])
  local t = math.min(tpm, tonumber(old[1]) + tonumber(args[1]) - tonumber(args[2]))
  redis.call('HSET', keys[1], 't', string.format('%.9f', t))
  if tpm > 0 then
    local wait = math.ceil((tpm - t) / tpm * 60) + KEPT_S
    if wait > redis.call('TTL', keys[1]) then redis.call('EXPIRE', keys[1], wait) end
  end
  return 1, true
end

-- keys: bucket, name of this call; args: tokens reserved, tokens used.
local function settle(keys, args)
  return once(keys[2], function() return correct(keys, args) end)
end

local function revoke(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then return 0 end
  if (tonumber(redis.call('HGET', keys[1], 'revoked')) or 0) == 0 then redis.call('HSET', keys[1], 'revoked', args[1]) end
  return 1
end

-- Keeps a document within a budget of bytes; the oldest make room. keys: document, its owner's ledger ("size id", newest first), bytes in the ledger;
-- args: text, milliseconds, budget, id, beginning of the documents' names. Returns 0 if the document alone is larger than the budget.
local function keep(keys, args)
  local size, budget = #args[1], tonumber(args[3])
  if size > budget then return 0 end
  if redis.call('GET', keys[1]) == args[1] then return 1 end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  redis.call('LPUSH', keys[2], size .. ' ' .. args[4])
  local held = redis.call('INCRBY', keys[3], size)
  while held > budget do
    local oldest = redis.call('RPOP', keys[2])
    if not oldest then break end
    local its_size, its_id = string.match(oldest, '^(%d+) (.*)$')
    held = redis.call('DECRBY', keys[3], its_size)
    if its_id ~= args[4] then redis.call('DEL', args[5] .. its_id) end
  end
  redis.call('PEXPIRE', keys[2], args[2])
  redis.call('PEXPIRE', keys[3], args[2])
  return 1
end

redis.register_function('csl_reserve_HASH', reserve)
redis.register_function('csl_check_HASH', check)
redis.register_function('csl_settle_HASH', settle)
redis.register_function('csl_revoke_HASH', revoke)
redis.register_function('csl_keep_HASH', keep)
