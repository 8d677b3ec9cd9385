// The line that says whether new orders can arrive, and since when.

const TEXT = {
  open: "Connected",
  connecting: "Connecting…",
  reconnecting: "Reconnecting",
  offline: "Offline",
};

const CLOCK = { hour: "numeric", minute: "2-digit" };
const TIME = new Intl.DateTimeFormat(undefined, CLOCK);
const DAY = new Intl.DateTimeFormat(undefined, { ...CLOCK, month: "short", day: "numeric" });

/** A point in time as briefly as it is clear at another one: with its date when that is not today's. */
export function timeOf(then, now) {
  const isToday = then.toDateString() === now.toDateString();
  return (isToday ? TIME : DAY).format(then);
}

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
    // It counts seconds, or may need a date.
    timer = setTimeout(update, connection.state === "waiting" ? 500 : 60_000);
  }

  function details(now) {
    if (now === "connecting") return "";
    const left = connection.state === "waiting" ? Math.ceil((connection.retryAt - Date.now()) / 1000) : 0;
    const when = left > 0 && now === "reconnecting" ? `in ${left} s, ` : "";
    return `${when}since ${timeOf(since, new Date())}`;
  }

  connection.addEventListener("state", update);
  addEventListener("online", update);
  addEventListener("offline", update);
  update();
}
