//! Scripts: the Lua scripts that Redis executes atomically.

use std::sync::OnceLock;

use redis::Script;

/// A Lua script, loaded at the start of a connection.
pub(super) struct LuaScript {
    pub(super) code: &'static str,
    script: OnceLock<Script>,
}

impl LuaScript {
    const fn new(code: &'static str) -> Self {
        Self {
            code,
            script: OnceLock::new(),
        }
    }

    /// Returns the command that calls the script.
    pub(super) fn call(&self, keys: &[&str]) -> redis::Cmd {
        let script = self.script.get_or_init(|| Script::new(self.code));
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(keys.len()).arg(keys);
        call
    }
}

/// Sends an event to a group. If the group keeps a history, gives the event its offset and stores
/// it.
///
/// Keys: the history's hash, and its stream.
///
/// Arguments:
/// 1. the channel
/// 2. the part of the message before its position, and 3. the part after it
/// 4. the sender, and 5. its number for the event
/// 6. how many events are kept, and 7. for how many milliseconds; two empty strings if the sender
///    does not know
/// 8. an epoch, in case the history starts
/// 9. whether the event may have been sent before; then it is sent only if there is a history to
///    check
/// 10. the number of the sender's event before it in the same pipeline, or 0; the event is refused
///     if that one is missing
/// 11. how many bytes the history may take
///
/// Returns how many processes the event reached, its offset (0 without a history, -1 if it was
/// already stored), and an upper bound of the history's bytes.
///
/// Each event has the sum of all bytes up to it (`b`), so the bytes of a stream follow from its
/// first event. That event is read only if enough has been added since the last time.
pub(super) static APPEND: LuaScript = LuaScript::new(
    r"
local max, expiry = ARGV[6], ARGV[7]
if max == '' then
  local kept = redis.call('HMGET', KEYS[1], 'max', 'expiry')
  max, expiry = kept[1], kept[2]
  if not max then
    if ARGV[9] == '1' then
      return {0, 0}
    end
    return {redis.call('PUBLISH', ARGV[1], ARGV[2] .. string.rep('\0', 16) .. ARGV[3]), 0}
  end
else
  redis.call('HSET', KEYS[1], 'max', max, 'expiry', expiry)
end
local now = redis.call('TIME')
local at = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local node = 'n' .. ARGV[4]
local last = redis.call('HGET', KEYS[1], node)
if last and tonumber(string.match(last, '^%d+')) >= tonumber(ARGV[5]) then
  return {0, -1}
end
if ARGV[10] ~= '0' and (not last or tonumber(string.match(last, '^%d+')) < tonumber(ARGV[10])) then
  return redis.error_reply('TRYAGAIN the event before it is not there')
end
if not last and redis.call('HLEN', KEYS[1]) > 64 then
  -- A process that has been silent for an hour is gone, or will not send again what it sent then.
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    local said = string.match(fields[i + 1], '^%d+:(%d+)$')
    if string.sub(fields[i], 1, 1) == 'n' and said and at - said > 3600000 then
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[8]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
redis.call('HSET', KEYS[1], node, ARGV[5] .. ':' .. at)
local size = #ARGV[2] + #ARGV[3] + 64
local total = redis.call('HINCRBY', KEYS[1], 'total', size)
local function add()
  return redis.pcall('XADD', KEYS[2], 'MAXLEN', max, string.format('%.0f-1', offset), 'h', ARGV[2], 't', ARGV[3], 'at', at, 'b', string.format('%.0f', total))
end
local added = add()
if type(added) == 'table' and added.err then
  -- Another program wrote to the stream: another epoch starts.
  redis.call('DEL', KEYS[2])
  epoch, offset = ARGV[8], 1
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset)
  added = add()
  if type(added) == 'table' and added.err then
    return added
  end
end
local function size_of(entry)
  return #(entry[2][2] or '') + #(entry[2][4] or '') + 64
end
local limit = tonumber(ARGV[11])
local bytes = redis.call('HINCRBY', KEYS[1], 'bytes', size)
local exact = tonumber(redis.call('HGET', KEYS[1], 'exact') or '0')
if bytes > limit or bytes > 2 * exact + 4096 then
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  bytes = total - tonumber(first[2][8] or '0') + size_of(first)
  if bytes > limit then
    -- An eighth more than necessary, so that the next events need not trim again.
    local left, gone = limit - math.floor(limit / 8), 0
    local from = '-'
    while bytes > left do
      local some = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 16)
      if #some == 0 then
        bytes = 0
        break
      end
      for _, entry in ipairs(some) do
        if bytes <= left then
          break
        end
        bytes = bytes - size_of(entry)
        gone = gone + 1
        from = string.gsub(entry[1], '%-1$', '-2')
      end
    end
    redis.call('XTRIM', KEYS[2], 'MAXLEN', redis.call('XLEN', KEYS[2]) - gone)
  end
  redis.call('HSET', KEYS[1], 'bytes', string.format('%.0f', bytes), 'exact', string.format('%.0f', bytes))
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', expiry + 86400000))
redis.call('PEXPIRE', KEYS[2], expiry)
return {redis.call('PUBLISH', ARGV[1], ARGV[2] .. epoch .. struct.pack('>I8', offset) .. ARGV[3]), offset, bytes}
",
);

/// Reads a page of a group's history after a position, and records that the group keeps one.
///
/// Keys: as for `APPEND`. Arguments: how many events are kept, and for how many milliseconds (two
/// empty strings if the caller does not know); the position's epoch and offset; an epoch, in case
/// the history starts; the most events in the page; for how many milliseconds an empty history is
/// kept. Returns the epoch, the offset of the newest event, the time in milliseconds, the events,
/// and how many are kept for how long; nil if the caller does not know and there is no history.
pub(super) static READ: LuaScript = LuaScript::new(
    r"
local max, expiry = ARGV[1], ARGV[2]
if max == '' then
  local kept = redis.call('HMGET', KEYS[1], 'max', 'expiry')
  max, expiry = kept[1], kept[2]
  if not max then
    return false
  end
else
  redis.call('HSET', KEYS[1], 'max', max, 'expiry', expiry)
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[5]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
redis.call('PEXPIRE', KEYS[1], offset > 0 and string.format('%.0f', expiry + 86400000) or ARGV[7])
local from = 1
if epoch == ARGV[3] then
  from = tonumber(ARGV[4]) + 1
end
local now = redis.call('TIME')
local at = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
return {epoch, offset, at, redis.call('XRANGE', KEYS[2], string.format('%.0f-0', from), '+', 'COUNT', ARGV[6]), max, expiry}
",
);

/// Starts another epoch of a history that differs from the one the caller has seen: a Redis that
/// crashed may restart with an older state.
///
/// Keys: as for `APPEND`. Arguments: the epoch and the offset that the caller knows; the sender and
/// number of the event at that offset, or an empty string; the other epoch; the caller. Returns
/// whether the other epoch was started, and the number of the caller's newest event.
pub(super) static VERIFY: LuaScript = LuaScript::new(
    r"
local last = tonumber(string.match(redis.call('HGET', KEYS[1], 'n' .. ARGV[5]) or '0', '^%d+'))
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return {0, last}
end
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
local is_other = offset < tonumber(ARGV[2])
if not is_other and ARGV[3] ~= '' then
  local id = string.format('%.0f-1', ARGV[2])
  local found = redis.call('XRANGE', KEYS[2], id, id)[1]
  is_other = found and string.sub(found[2][2], 4, 19) ~= ARGV[3]
end
if not is_other then
  return {0, last}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[4])
return {1, last}
",
);

/// Records again that a group keeps a history that has no event yet.
///
/// Keys: the history's hash. Arguments: how many events are kept, and for how many milliseconds;
/// the epoch that the caller knows; for how many milliseconds the hash is kept.
pub(super) static RENEW_EMPTY: LuaScript = LuaScript::new(
    r"
if redis.call('HEXISTS', KEYS[1], 'offset') == 0 then
  redis.call('HSET', KEYS[1], 'max', ARGV[1], 'expiry', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'epoch', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 0
",
);

/// Registers the sizes of histories, and returns those to evict, least recently used first. The
/// caller must evict each of them or register it again, because the registry no longer lists it.
///
/// Keys: the groups by their last use; the size of each, and of all; the groups by the time their
/// history expires. Arguments: the limit for all; the memory of a group besides its events, and
/// after they have expired; the most victims to return; then for each history its group, its bytes
/// and for how many milliseconds it is kept (an empty string if the caller does not know). Returns
/// the bytes of all, then the group and the bytes of each victim.
pub(super) static REGISTER: LuaScript = LuaScript::new(
    r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, beside, rest, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local sum = tonumber(redis.call('HGET', KEYS[2], ' sum') or '0')
local day, longest = 86400000, 0
local function text(number)
  return string.format('%.0f', number)
end
local function note(group, bytes)
  sum = sum - tonumber(redis.call('HGET', KEYS[2], group) or '0') + bytes
  redis.call('HSET', KEYS[2], group, text(bytes))
end
local function forget(group)
  sum = sum - tonumber(redis.call('HGET', KEYS[2], group) or '0')
  redis.call('HDEL', KEYS[2], group)
  redis.call('ZREM', KEYS[1], group)
end
for i = 5, #ARGV, 3 do
  local group, expiry = ARGV[i], ARGV[i + 2]
  note(group, ARGV[i + 1] + beside)
  redis.call('ZADD', KEYS[1], text(now), group)
  if expiry == '' then
    redis.call('ZADD', KEYS[3], 'NX', text(now + day), group)
    longest = math.max(longest, day)
  else
    redis.call('ZADD', KEYS[3], text(now + expiry), group)
    longest = math.max(longest, expiry)
  end
end
for _, group in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(now), 'LIMIT', 0, 500)) do
  local bytes = redis.call('HGET', KEYS[2], group)
  if bytes and tonumber(bytes) > rest then
    note(group, rest) -- its events are gone, its hash stays for another day
    redis.call('ZADD', KEYS[3], text(now + day), group)
  else
    forget(group)
    redis.call('ZREM', KEYS[3], group)
  end
end
local answer = {0}
while limit > 0 and sum > limit and #answer < 2 * most do
  local group = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not group then
    break
  end
  answer[#answer + 1] = group
  answer[#answer + 1] = redis.call('HGET', KEYS[2], group) or '0'
  forget(group)
end
if redis.call('ZCARD', KEYS[1]) == 0 then
  sum = 0
  redis.call('DEL', KEYS[2])
else
  redis.call('HSET', KEYS[2], ' sum', text(sum))
end
for i = 1, 3 do
  if redis.call('PTTL', KEYS[i]) < longest + 2 * day then
    redis.call('PEXPIRE', KEYS[i], text(longest + 3 * day))
  end
end
answer[1] = sum
return answer
",
);

/// Deletes a group's history, or halves it.
///
/// Keys: as for `APPEND`. Arguments: the channel; whether a history with subscribers loses its
/// older half. Returns how many events were deleted; -1 if none, because a process subscribes to
/// the channel.
pub(super) static EVICT: LuaScript = LuaScript::new(
    r"
local heard = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1])
if not heard.err and heard[2] == 0 then
  local length = redis.call('XLEN', KEYS[2])
  redis.call('DEL', KEYS[1], KEYS[2])
  return length
end
if ARGV[2] == '0' then
  return -1
end
local length = redis.call('XLEN', KEYS[2])
redis.call('HDEL', KEYS[1], 'exact') -- counted again with the next event
return redis.call('XTRIM', KEYS[2], 'MAXLEN', math.floor(length / 2))
",
);

/// Renews the lease of a process, and returns dead processes to it.
///
/// Keys: the leases. Arguments: the process; its lease in milliseconds. Returns whether the process
/// had a lease of its own, and the processes whose lease has expired. Those get a lease for being
/// reaped, which is the time the caller has for it. Such a lease is not a whole number of
/// milliseconds: a process that returns learns from it that it was taken for dead.
pub(super) static RENEW_LEASE: LuaScript = LuaScript::new(
    r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0.5')
local ends = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', KEYS[1], ends, ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, 16)
for _, node in ipairs(dead) do
  redis.call('ZADD', KEYS[1], ends .. '.5', node)
end
return {known % 1 == 0 and 1 or 0, dead}
",
);

/// Gives a process a lease if it has none.
///
/// Keys: the leases. Arguments: the process; its lease in milliseconds. It is a lease of a process
/// that is being reaped, so the process notices with its next renewal that it had none.
pub(super) static ENSURE_LEASE: LuaScript = LuaScript::new(
    r"
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
return redis.call('ZADD', KEYS[1], 'NX', string.format('%.0f', ends) .. '.5', ARGV[1])
",
);

/// Returns a process's members of a group.
///
/// Keys: the group's members. Arguments: the prefix of the process's fields. Returns the fields and
/// the entries.
pub(super) static NODE_MEMBERS: LuaScript = LuaScript::new(
    r"
local own = {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if string.sub(entries[i], 1, #ARGV[1]) == ARGV[1] then
    own[#own + 1] = entries[i]
    own[#own + 1] = entries[i + 1]
  end
end
return own
",
);

/// Removes a process's members from a group.
///
/// Keys: the group's members. Arguments: the prefix of the process's fields. Returns the removed
/// fields and entries, and the number of members that remain.
pub(super) static REMOVE_NODE_MEMBERS: LuaScript = LuaScript::new(
    r"
local gone = {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if string.sub(entries[i], 1, #ARGV[1]) == ARGV[1] then
    redis.call('HDEL', KEYS[1], entries[i])
    gone[#gone + 1] = entries[i]
    gone[#gone + 1] = entries[i + 1]
  end
end
return {gone, redis.call('HLEN', KEYS[1])}
",
);

/// Puts a message into a channel of `channels_redis.core`, unless the channel is full.
///
/// Keys: the channel. Arguments: the time in seconds; the expiry in seconds; the capacity; the
/// message. Returns whether there was space.
pub(super) static ENQUEUE: LuaScript = LuaScript::new(
    r"
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, math.floor(ARGV[1]) - ARGV[2])
if redis.call('ZCOUNT', KEYS[1], '-inf', '+inf') >= tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
",
);

/// All scripts.
pub(super) fn all() -> [&'static LuaScript; 11] {
    [
        &APPEND,
        &READ,
        &VERIFY,
        &RENEW_EMPTY,
        &REGISTER,
        &EVICT,
        &RENEW_LEASE,
        &ENSURE_LEASE,
        &NODE_MEMBERS,
        &REMOVE_NODE_MEMBERS,
        &ENQUEUE,
    ]
}
