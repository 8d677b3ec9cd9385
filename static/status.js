// The line that shows the connection's state, and since when.

const TEXT = {
  open: "Connected",
  connecting: "Connecting…",
  reconnecting: "Reconnecting",
  offline: "Offline",
};

const TIME_PARTS = { hour: "numeric", minute: "2-digit" };
const TIME = new Intl.DateTimeFormat(undefined, TIME_PARTS);
const DATE_AND_TIME = new Intl.DateTimeFormat(undefined, { ...TIME_PARTS, month: "short", day: "numeric" });

export function formatTime(time, now) {
  const isToday = time.toDateString() === now.toDateString();
  return (isToday ? TIME : DATE_AND_TIME).format(time);
}

export function showConnection(line, socket) {
  const [label, detail] = line.children;
  let since = null;
  let hasFailed = false;
  let timer = null;

  function getState() {
    if (socket.readyState === socket.OPEN) return "open";
    if (!navigator.onLine) return "offline";
    return hasFailed || socket.retryAt !== null ? "reconnecting" : "connecting";
  }

  function update() {
    const state = getState();
    hasFailed ||= state !== "connecting";
    // Screen readers read each change, so a series of attempts is a single state.
    if (line.dataset.state !== state) {
      const isBreak = (line.dataset.state === "open") !== (state === "open");
      if (isBreak || since === null) since = new Date();
      line.dataset.state = state;
      label.textContent = TEXT[state];
    }
    line.dataset.transport = socket.transport;
    detail.textContent = getDetail(state);
    clearTimeout(timer);
    // For the countdown, or for the date.
    timer = setTimeout(update, socket.retryAt === null ? 60_000 : 500);
  }

  function getDetail(state) {
    if (state === "connecting") return "";
    const seconds = socket.retryAt === null ? 0 : Math.ceil((socket.retryAt - Date.now()) / 1000);
    const countdown = seconds > 0 && state === "reconnecting" ? `in ${seconds} s, ` : "";
    return `${countdown}since ${formatTime(since, new Date())}`;
  }

  for (const event of ["connecting", "open", "close"]) socket.addEventListener(event, update);
  addEventListener("online", update);
  addEventListener("offline", update);
  update();
}
