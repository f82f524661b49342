import { useState } from "react";
import { ChatRoom } from "./ChatRoom.jsx";

const ROOMS = ["lobby", "tea-break", "help"];

export function App() {
  const [room, setRoom] = useState(ROOMS[0]);
  return (
    <main>
      <h1>React and Oneport</h1>
      <p className="quiet">The component connects when it is mounted, again when the room changes, and disconnects when it goes.</p>
      <nav aria-label="Rooms">
        {ROOMS.map((name) => (
          <button key={name} type="button" aria-pressed={room === name} onClick={() => setRoom(name)}>
            {name}
          </button>
        ))}
        <button type="button" className="leave" disabled={room === null} onClick={() => setRoom(null)}>
          Leave
        </button>
      </nav>
      {room === null ? (
        <p className="quiet" data-test="left">You left. Nothing is connected now.</p>
      ) : (
        <ChatRoom key={room} room={room} />
      )}
    </main>
  );
}
