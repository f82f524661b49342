//! Scripts: what Redis does in one step.

use std::sync::OnceLock;

use redis::Script;

/// What Redis does in one step.
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

    /// A call; Redis has to know the script already.
    pub(super) fn call(&self, keys: &[&str]) -> redis::Cmd {
        let script = self.script.get_or_init(|| Script::new(self.code));
        let mut call = redis::cmd("EVALSHA");
        call.arg(script.get_hash()).arg(keys.len()).arg(keys);
        call
    }
}

/// Sends an event to a group, and gives it a place in the group's history where one is kept.
///
/// Keys: what is known of the history, the history. Arguments: the channel; the message before and behind its position; the
/// sender and its number for the event; how many events are kept and for how many milliseconds, or two empty texts from
/// one who does not know; an epoch for a history that begins; whether it may have been said before: then it is said only into a
/// history; the number of the sender's event before it in the same pipeline, or 0: it is refused where that was; how many bytes the
/// history may take. Returns how many processes it reached, its offset (0 without a history, -1 when it was there already), and
/// about how many bytes the history takes.
///
/// Each event has the sum of all bytes up to it (`b`), so what a stream takes is known from its first event. It is asked for only when
/// the sum since the last time says that much may have changed; in between, `bytes` is an upper bound.
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
  -- Processes that have said nothing for long are gone, or know better than to say again what they said then.
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
  -- Somebody else wrote there: another life begins.
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
    -- More than has to be, so that the next events need not look again.
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

/// Reads a group's history from a position on, and says that one is kept.
///
/// Keys: as of `APPEND`. Arguments: how many events are kept and for how many milliseconds; the position; an epoch for a
/// history that begins; how many events at most; for how many milliseconds a group without events is kept. Returns the epoch, the offset of the newest event, the time in milliseconds,
/// the events.
pub(super) static READ: LuaScript = LuaScript::new(
    r"
redis.call('HSET', KEYS[1], 'max', ARGV[1], 'expiry', ARGV[2])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[5]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
redis.call('PEXPIRE', KEYS[1], offset > 0 and string.format('%.0f', ARGV[2] + 86400000) or ARGV[7])
local from = 1
if epoch == ARGV[3] then
  from = tonumber(ARGV[4]) + 1
end
local now = redis.call('TIME')
local at = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
return {epoch, offset, at, redis.call('XRANGE', KEYS[2], string.format('%.0f-0', from), '+', 'COUNT', ARGV[6])}
",
);

/// Begins another life of a history that is not the one it was: a Redis that died may come back with what it knew earlier.
///
/// Keys: as of `APPEND`. Arguments: the epoch and the offset that the caller knows; the process and number of the event there, or
/// an empty text; an epoch for another life; the caller. Returns whether it began one, and the number of the caller's newest
/// event.
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

/// Says again that a group keeps a history that has no event yet: nobody else would know.
///
/// Keys: what is known of the history. Arguments: how many events are kept and for how many milliseconds; the epoch that the
/// caller knows; for how many milliseconds the group is kept.
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

/// Notes what histories take, and names those that have to give way: the least recently used first. The caller must evict each
/// returned history: the registry no longer lists it.
///
/// Keys: the groups by their last use; what each takes, and all together; the groups by when their history expires. Arguments: how
/// many bytes all may take; what a group takes beside its events, and what is left of it when they have expired; how many are named at
/// most; then for each history its group, its bytes and for how many milliseconds it is kept, or an empty text from one who does not know.
/// Returns how many bytes all take, then each group that was named and its bytes.
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
    note(group, rest) -- its events are gone, its offset is known for another day
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

/// Takes memory from a group's history.
///
/// Keys: as of `APPEND`. Arguments: the channel; whether a group that a process hears is to lose the older half. Returns how many events
/// it lost; -1 when a process hears it.
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
redis.call('HDEL', KEYS[1], 'exact') -- it is counted anew
return redis.call('XTRIM', KEYS[2], 'MAXLEN', math.floor(length / 2))
",
);

/// Says that a process is alive, and takes over what is left of those that are not.
///
/// Keys: the leases. Arguments: the process; its lease in milliseconds. Returns whether it had a lease, and then the processes
/// whose lease ran out: whoever is told of one has a lease's time to clear up after it.
pub(super) static RENEW_LEASE: LuaScript = LuaScript::new(
    r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
local ends = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', KEYS[1], ends, ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, 16)
for _, node in ipairs(dead) do
  redis.call('ZADD', KEYS[1], ends, node)
end
return {known and 1 or 0, dead}
",
);

/// Removes all that a process said of its members in one group.
///
/// Keys: the group's members. Arguments: what the names of its entries begin with. Returns the entries.
pub(super) static REMOVE_NODE_MEMBERS: LuaScript = LuaScript::new(
    r"
local gone = {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if string.sub(entries[i], 1, #ARGV[1]) == ARGV[1] then
    redis.call('HDEL', KEYS[1], entries[i])
    gone[#gone + 1] = entries[i + 1]
  end
end
return gone
",
);

/// Puts a message into a channel of `channels_redis.core`, if it has room.
///
/// Keys: the channel. Arguments: the time in seconds; the expiry in seconds; the capacity; the message. Returns whether it had.
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

/// All of them, to be loaded when a connection begins.
pub(super) fn all() -> [&'static LuaScript; 9] {
    [
        &APPEND,
        &READ,
        &VERIFY,
        &RENEW_EMPTY,
        &REGISTER,
        &EVICT,
        &RENEW_LEASE,
        &REMOVE_NODE_MEMBERS,
        &ENQUEUE,
    ]
}
