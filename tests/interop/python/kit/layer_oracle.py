"""The oracle of random schedules: what clients may and must be shown. It reads only what they were shown and what was sent.

A *client* has connections, one after the other (`parts`). A *run* of parts begins with one that was not told
`recovered: true`: within a run it is as if there were one connection.

    all formats
      once        no event twice on one connection, nor in a run
      order       the events of one speaker in the order in which they were sent; except for those before a FLUSHDB, which
                  may be sent again after later ones, and for the past of a member that joins during an outage
      strange     nothing that was not sent to this group
      own         a member is shown what is sent at its own process, if that process lives on
      closed      no connection ends but by its client, or with its process
      settled     a member is shown what is sent before the first fault, and after the last one
      presence    the first change tells how many members there are; each one after it adds or removes one; the last
                  one, and `who`, count those that are there
    format oneport, groups with a history
      position    no two events of a run have the same position; one confirmed event has one position in one epoch
      whole       at the end a run has every acknowledged event of the group, except for events whose process was killed,
                  and for those before a FLUSHDB if the run began after it; a member that did not ask for the past has
                  those that were sent after it joined
    Django's formats, groups with a history
      epoch       who returns to another process is not told that it recovered
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Message:
    """What was sent to a group: by a member's connection (`by`), or by the server API."""

    text: str
    group: tuple
    process: str
    at: float
    by: object = None
    # Whether its group had no member at its process that makes it exist: then it may be lost.
    is_optional: bool = False
    is_acknowledged: bool = False


@dataclass
class Part:
    """One connection of a client. `first` has its first position and whether it recovered, if it was told."""

    process: str
    since: str | None
    opened: float
    first: dict | None = None
    seen: list = field(default_factory=list)
    closed: float | None = None
    # Whether its client or the end of its process ended it; why it ended otherwise.
    is_ended: bool = False
    why: str = ""
    who: dict | None = None

    @property
    def is_recovered(self):
        return self.first is not None and self.first["recovered"] is True

    @property
    def heard(self):
        return [event["message"] for event in self.seen if event["type"] == "chat.message"]


@dataclass
class Client:
    name: str
    group: tuple
    # Whether its group has a history, and whether the client asks for it.
    is_kept: bool
    has_history: bool
    is_announced: bool
    # Whether it gets the past although it has no position.
    gets_past: bool = True
    # Whether its history keeps all events of a schedule.
    is_long: bool = True
    parts: list = field(default_factory=list)
    has_left: bool = False

    @property
    def is_open(self):
        return bool(self.parts) and self.parts[-1].closed is None

    def is_open_at(self, process):
        return self.is_open and self.parts[-1].process == process

    @property
    def position(self):
        """The last position it was shown; `None` if there is none."""
        if not self.parts or not self.has_history:
            return None
        last = self.parts[-1]
        return next((event["offset"] for event in reversed(last.seen) if "offset" in event), last.first["offset"])

    def runs(self):
        """Returns its parts, in runs."""
        runs = []
        for part in self.parts:
            if runs and part.is_recovered:
                runs[-1].append(part)
            else:
                runs.append([part])
        return runs


@dataclass
class Story:
    """All that happened."""

    layer_format: str
    clients: list = field(default_factory=list)
    messages: dict = field(default_factory=dict)
    killed: set = field(default_factory=set)
    # When Redis was emptied with all connections alive.
    flushes: list = field(default_factory=list)
    first_fault: float = float("inf")
    last_fault: float = 0.0

    def sent_to(self, group):
        return [message for message in self.messages.values() if message.group == group]

    def acknowledge(self):
        """Marks what reached the layer for certain: a member was shown it, or its connection stayed."""
        shown = {text for client in self.clients for part in client.parts for text in part.heard}
        for message in self.messages.values():
            if message.text in shown or (message.by is not None and message.by.closed is None):
                message.is_acknowledged = True

    def is_due(self, message, run):
        """Whether the last part of a run, which is still open, must have been shown this."""
        if message.is_optional or not message.is_acknowledged or message.process in self.killed:
            return False
        client = self.client_of(run)
        is_shared = self.layer_format == "oneport" and client.is_kept and client.is_long
        if is_shared and client.has_history and (client.gets_past or run[0].since is not None):
            # What was sent before Redis was emptied is not sent again: its connections live.
            return not any(message.at < flush < run[0].opened for flush in self.flushes)
        if message.at < run[0].opened:
            return False
        if is_shared:
            return True
        if not client.is_long and len(run) > 1:
            return False
        last = run[-1]
        # Between the parts of a run it is in the history of its process.
        is_own = message.process == last.process and all(part.process == last.process for part in run)
        is_calm = (message.at < self.first_fault or message.at > self.last_fault) and (len(run) == 1 or is_own)
        return is_own or is_calm

    def client_of(self, run):
        return next(client for client in self.clients if any(part is run[-1] for part in client.parts))

    def missing(self):
        """Returns what members that are there have not been shown yet, by client."""
        self.acknowledge()
        found = {}
        for client in self.clients:
            if client.is_open:
                run = client.runs()[-1]
                heard = {text for part in run for text in part.heard}
                due = [message.text for message in self.sent_to(client.group) if self.is_due(message, run) and message.text not in heard]
                if due:
                    found[client.name] = due
        return found

    def miscounted(self):
        """Returns the groups whose members were told another number of members than there are, by client."""
        wrong = {}
        present = Counter(client.group for client in self.clients if client.is_open)
        for client in self.clients:
            if not (client.is_announced and client.is_open):
                continue
            changes = changes_of(client.parts[-1])
            told = changes[-1]["members"] if changes else None
            who = client.parts[-1].who and client.parts[-1].who["members"]
            if told != present[client.group] or who not in (None, told):
                wrong[client.name] = f"{present[client.group]} members are there, told {told}, who says {who}: {brief(changes)}"
        return wrong

    def faults(self):
        """Returns sentences, one for each rule that was broken at a client."""
        found = [f"{name}: whole: {len(texts)} missing, {texts[:5]}" for name, texts in self.missing().items()]
        found += [f"{name}: presence: {sentence}" for name, sentence in self.miscounted().items()]
        for client in self.clients:
            lost = [part for part in client.parts if part.closed is not None and not part.is_ended]
            found += [f"{client.name}: closed: by {part.process}: {part.why}" for part in lost]
        places = defaultdict(dict)
        for client in self.clients:
            for run in client.runs():
                found += [f"{client.name}: {sentence}" for sentence in self._faults_of(client, run, places)]
        return found

    def _faults_of(self, client, run, places):
        where = "->".join(f"{part.process}{'' if part.since is None else f'({part.since})'}" for part in run)
        heard = [text for part in run for text in part.heard]
        twice = [text for text, times in Counter(heard).items() if times > 1]
        if twice:
            yield f"once: {len(twice)} shown again at {where}, {twice[:5]}"
        strange = [text for text in heard if text not in self.messages or self.messages[text].group != client.group]
        if strange:
            yield f"strange: {strange[:5]}"
            return
        yield from self._disordered(run, heard, where)
        if self.layer_format != "oneport" and any(part.process != run[0].process for part in run):
            yield f"epoch: recovered at {where}"
        if client.is_announced:
            for part in run:
                yield from self._miscounts(part)
        if client.has_history and self.layer_format == "oneport":
            yield from self._misplaced(run, where, places[client.group])

    def _disordered(self, run, heard, where):
        newest = {}
        for text in dict.fromkeys(heard):
            message = self.messages[text]
            if any(message.at < flush for flush in self.flushes):
                continue
            # Who joins during an outage is shown early events at once, and the past after it.
            is_past = run[0].opened > self.first_fault and message.at < run[0].opened
            speaker, _, number = text.rpartition(" ")
            if int(number) < newest.get((speaker, is_past), -1):
                yield f"order: {text} after {speaker} {newest[speaker, is_past]} at {where}"
                return
            newest[speaker, is_past] = int(number)

    @staticmethod
    def _miscounts(part):
        changes = changes_of(part)
        for earlier, later in zip(changes, changes[1:], strict=False):
            if later["members"] != earlier["members"] + (1 if later["type"] == "chat.join" else -1):
                yield f"presence: at {part.process}: {brief(changes)}"
                return

    def _misplaced(self, run, where, places):
        positions = {}
        for part in run:
            for event in part.seen:
                # What is not kept has the position of the newest event that is.
                if event["type"] != "chat.message" or self.messages[event["message"]].is_optional:
                    continue
                position, text = event["offset"], event["message"]
                if positions.setdefault(position, text) != text:
                    yield f"position: {position} is that of {positions[position]} and of {text} at {where}"
                    return
                # With marks of early events it is a position of this client alone.
                if "~" not in position and places.setdefault(position, text) != text:
                    yield f"position: {position} is that of {text}, elsewhere of {places[position]}, at {where}"
                    return


def changes_of(part):
    return [event for event in part.seen if event["type"] in ("chat.join", "chat.leave")]


def brief(changes):
    return " ".join(f"{'+' if event['type'] == 'chat.join' else '-'}{event.get('member', '')}={event['members']}" for event in changes[-12:])
