// The line that says whether new orders can arrive, and since when.

const TEXT = {
  open: "Connected",
  connecting: "Connecting…",
  reconnecting: "Reconnecting",
  offline: "Offline",
};

const TIME = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });

/** Keeps `line` saying what `connection` is doing. */
export function showStatus(line, connection) {
  const [word, detail] = line.children;
  let since = null;
  let tried = false;
  let timer = null;

  function state() {
    if (connection.state === "open") return "open";
    if (!navigator.onLine) return "offline";
    return tried || connection.state === "waiting" ? "reconnecting" : "connecting";
  }

  function update() {
    const now = state();
    tried ||= now !== "connecting";
    // The word is read aloud when it changes: once for all the tries to reconnect.
    if (line.dataset.state !== now) {
      const isBreak = (line.dataset.state === "open") !== (now === "open");
      if (isBreak || since === null) since = new Date();
      line.dataset.state = now;
      word.textContent = TEXT[now];
    }
    line.dataset.kind = connection.kind;
    detail.textContent = details(now);
    clearTimeout(timer);
    if (connection.state === "waiting") timer = setTimeout(update, 500);
  }

  function details(now) {
    if (now === "connecting") return "";
    const left = connection.state === "waiting" ? Math.ceil((connection.retryAt - Date.now()) / 1000) : 0;
    const when = left > 0 && now === "reconnecting" ? `in ${left} s, ` : "";
    return `${when}since ${TIME.format(since)}`;
  }

  connection.addEventListener("state", update);
  addEventListener("online", update);
  addEventListener("offline", update);
  update();
}
