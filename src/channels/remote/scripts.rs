//! Scripts: what Redis does in one step.

use std::sync::OnceLock;

use redis::Script;

/// What Redis does in one step.
pub(super) struct Step {
    pub(super) code: &'static str,
    script: OnceLock<Script>,
}

impl Step {
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
/// history; the number of the sender's event before it in the same pipeline, or 0: it is refused where that was. Returns how many
/// processes it reached, and its offset: 0 without a history, -1 when it was there already.
pub(super) static PLACE: Step = Step::new(
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
local function add()
  return redis.pcall('XADD', KEYS[2], 'MAXLEN', max, string.format('%.0f-1', offset), 'h', ARGV[2], 't', ARGV[3], 'at', at)
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
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', expiry + 86400000))
redis.call('PEXPIRE', KEYS[2], expiry)
return {redis.call('PUBLISH', ARGV[1], ARGV[2] .. epoch .. struct.pack('>I8', offset) .. ARGV[3]), offset}
",
);

/// Reads a group's history from a position on, and says that one is kept.
///
/// Keys: as of `PLACE`. Arguments: how many events are kept and for how many milliseconds; the position; an epoch for a
/// history that begins; how many events at most. Returns the epoch, the offset of the newest event, the time in milliseconds,
/// the events.
pub(super) static READ: Step = Step::new(
    r"
redis.call('HSET', KEYS[1], 'max', ARGV[1], 'expiry', ARGV[2])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[5]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + 86400000))
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
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
/// Keys: as of `PLACE`. Arguments: the epoch and the offset that the caller knows; the process and number of the event there, or
/// an empty text; an epoch for another life; the caller. Returns whether it began one, and the number of the caller's newest
/// event.
pub(super) static CHECK: Step = Step::new(
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

/// Says that a process is alive, and takes over what is left of those that are not.
///
/// Keys: the leases. Arguments: the process; its lease in milliseconds. Returns whether it had a lease, and then the processes
/// whose lease ran out: whoever is told of one has a lease's time to clear up after it.
pub(super) static BEAT: Step = Step::new(
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
pub(super) static CLEAR: Step = Step::new(
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
pub(super) static ENQUEUE: Step = Step::new(
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
pub(super) fn all() -> [&'static Step; 6] {
    [&PLACE, &READ, &CHECK, &BEAT, &CLEAR, &ENQUEUE]
}
