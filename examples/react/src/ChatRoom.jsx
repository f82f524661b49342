import { useEffect, useRef, useState } from "react";
import { useConnection } from "./useConnection.js";

const MESSAGES_MAX = 200;
const STATUS_TEXTS = { connecting: "connecting", open: "connected", waiting: "reconnecting", closed: "disconnected" };

export function ChatRoom({ room }) {
  const [messages, setMessages] = useState([]);
  const [error, setError] = useState("");
  const [text, setText] = useState("");
  const log = useRef(null);
  const nextKey = useRef(0);
  const { status, code, reason, members, send, reopen } = useConnection(`/ws/chat/${encodeURIComponent(room)}/`, receive);

  function receive(event) {
    if (event.type === "chat.error") setError(event.message);
    if (event.type !== "chat.message") return;
    const message = { ...event, key: nextKey.current++ };
    setMessages((before) => [...before, message].slice(-MESSAGES_MAX));
  }

  useEffect(() => {
    log.current.scrollTop = log.current.scrollHeight;
  }, [messages]);

  function say(event) {
    event.preventDefault();
    const message = text.trim();
    if (message === "" || !send({ message })) return;
    setText("");
    setError("");
  }

  return (
    <section className="room" data-status={status}>
      <header>
        <h2>{room}</h2>
        {status === "open" && members !== null && <span className="quiet" data-test="members">{`${members} here`}</span>}
        <span className="status" role="status">{STATUS_TEXTS[status]}</span>
      </header>
      <ol ref={log} className="log" role="log" tabIndex={0} aria-label="Messages">
        {messages.map(({ key, user, nickname, message, at }) => (
          <li key={key}>
            <b>{user ?? (nickname ? `${nickname} (guest)` : "anonymous")}</b>
            <time className="quiet" dateTime={at}>{new Date(at).toLocaleTimeString([], { timeStyle: "short" })}</time>
            <p>{message}</p>
          </li>
        ))}
      </ol>
      {error !== "" && <p className="error" role="alert">{error}</p>}
      {status === "closed" && (
        <p className="error" role="alert">
          {reason || `closed with ${code}`} <button type="button" onClick={reopen}>Connect again</button>
        </p>
      )}
      <form onSubmit={say}>
        <input
          aria-label="Message"
          autoComplete="off"
          maxLength={4000}
          placeholder={`Message ${room}`}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <button disabled={status !== "open" || text.trim() === ""}>Send</button>
      </form>
    </section>
  );
}
