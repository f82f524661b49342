import { connect } from "oneport-client";
import { onMounted, onUnmounted, readonly, ref, toValue, watch } from "vue";

/**
 * A connection that lives as long as the component that calls this: opened when it is mounted, closed when it is
 * unmounted, and another one when the path changes (`path` is a ref or a function).
 *
 * Returns `status` ("connecting", "open", "waiting" or "closed"), `reason` (why the server closed it for good),
 * `members` (null while it is not known), `send`, which returns false without an open WebSocket, and `reopen` for a
 * connection that was closed for good. `onEvent` gets each JSON event; `onFresh` is called before the first event of
 * another path.
 */
export function useSocket(path, { onEvent, onFresh = () => {} }) {
  const status = ref("connecting");
  const reason = ref("");
  const members = ref(null);
  let connection = null;

  function open() {
    connection = connect(toValue(path));
    status.value = connection.status;
    reason.value = "";
    connection.on("status", (change) => {
      status.value = change.status;
      reason.value = change.status === "closed" ? change.reason || `closed with ${change.code}` : "";
    });
    connection.on("presence", (presence) => (members.value = presence.members));
    connection.on("event", onEvent);
  }

  onMounted(open);
  onUnmounted(() => connection.close());
  watch(
    () => toValue(path),
    () => {
      if (connection === null) return; // not mounted yet
      connection.close();
      onFresh();
      open();
    },
  );

  return {
    status: readonly(status),
    reason: readonly(reason),
    members: readonly(members),
    send: (value) => connection?.send(value) ?? false,
    reopen: () => connection?.open(),
  };
}
