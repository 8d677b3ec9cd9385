// The line that says whether new orders can arrive.

const TEXT = {
  open: "Connected",
  connecting: "Connecting…",
  reconnecting: "Reconnecting…",
  offline: "Offline",
};

/** Keeps `line` saying what `connection` is doing. */
export function showStatus(line, connection) {
  let tried = false;

  function state() {
    if (connection.state === "open") return "open";
    if (!navigator.onLine) return "offline";
    return tried || connection.state === "waiting" ? "reconnecting" : "connecting";
  }

  function update() {
    const now = state();
    tried ||= now !== "connecting";
    // It is read aloud when it changes: once for all the tries to reconnect.
    if (line.dataset.state === now) return;
    line.dataset.state = now;
    line.textContent = TEXT[now];
  }

  connection.addEventListener("state", update);
  addEventListener("online", update);
  addEventListener("offline", update);
  update();
}
