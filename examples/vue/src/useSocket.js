import { ReconnectingSocket, socketUrl } from "@oneport/socket.js";
import { onMounted, onUnmounted, readonly, ref, toValue, watch } from "vue";

/**
 * A socket that lives as long as the component that calls this: opened when it is mounted, closed when it is unmounted,
 * and reopened when the path changes (`path` is a ref or a function).
 *
 * Returns `status` ("connecting", "open", "waiting" or "closed"), `reason` (why the server closed it for good), `send`,
 * which returns false without an open socket, and `reopen` for one that was closed for good. `onEvent` gets each JSON
 * event; `onFresh` is called before the first event of another path.
 */
export function useSocket(path, { onEvent, onFresh = () => {} }) {
  const status = ref("connecting");
  const reason = ref("");
  let socket = null;

  function open() {
    const mine = new ReconnectingSocket(socketUrl(toValue(path)));
    mine.addEventListener("status", ({ detail }) => {
      // The socket of the previous path may still fire events.
      if (mine !== socket) return;
      status.value = detail.status;
      reason.value = detail.status === "closed" ? detail.reason || `closed with ${detail.code}` : "";
    });
    mine.addEventListener("message", ({ detail }) => {
      const event = parse(detail);
      if (mine === socket && event !== null) onEvent(event);
    });
    socket = mine;
    mine.open();
  }

  function close() {
    const mine = socket;
    socket = null;
    mine?.close();
  }

  onMounted(open);
  onUnmounted(close);
  watch(
    () => toValue(path),
    () => {
      if (socket === null) return;
      close();
      onFresh();
      open();
    },
  );

  return {
    status: readonly(status),
    reason: readonly(reason),
    send: (value) => socket?.send(JSON.stringify(value)) ?? false,
    reopen: () => socket?.open(),
  };
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
