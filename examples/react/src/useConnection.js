import { connect } from "oneport-client";
import { useEffect, useEffectEvent, useRef, useState } from "react";

const CONNECTING = { status: "connecting", transport: null, code: null, reason: "", retryMs: null };

/**
 * A connection that lives as long as the component that calls this, and is another one when the path changes.
 *
 * Returns the last change of its status, `members` (null while it is not known), `send`, which returns false without an
 * open WebSocket, and `reopen` for a connection that was closed for good. `onEvent` gets each JSON event.
 */
export function useConnection(path, onEvent) {
  const connection = useRef(null);
  const [change, setChange] = useState(CONNECTING);
  const [members, setMembers] = useState(null);
  const heard = useEffectEvent(onEvent);

  useEffect(() => {
    const mine = connect(path);
    const offs = [
      mine.on("status", setChange),
      mine.on("presence", (presence) => setMembers(presence.members)),
      mine.on("event", (event) => heard(event)),
    ];
    connection.current = mine;
    setChange(CONNECTING);
    setMembers(null);
    return () => {
      for (const off of offs) off();
      mine.close();
    };
  }, [path]);

  return {
    ...change,
    members,
    send: (value) => connection.current?.send(value) ?? false,
    reopen: () => connection.current?.open(),
  };
}
