// The timers of the application, and the hosts on the bus.

import { byId, cell, duration, element, rowHeader, setText, updateList } from "./dom.js";

/** Describes a time from now, such as "in 3 s". */
function until(time, now) {
  const seconds = Math.round((Date.parse(time) - Date.parse(now)) / 1000);
  return seconds <= 0 ? "now" : `in ${duration(seconds)}`;
}

const RESULTS = { success: ["succeeded", "good"], failure: ["failed", "bad"], "other-host": ["called by another host", ""] };

export function updateTimers({ timers, now }) {
  byId("timers-empty").hidden = timers.length > 0;
  updateList(
    byId("timers"),
    timers.map((timer, index) => ({ ...timer, index })),
    ({ index, timer }) => `${index} ${timer}`,
    ({ timer }) => element("tr", {}, rowHeader(timer), cell(), cell(), cell("wrap")),
    (row, { schedule, next, running, last }) => {
      const [, scheduleCell, nextCell, lastCell] = row.children;
      setText(scheduleCell, schedule);
      setText(nextCell, running ? "running" : next ? until(next, now) : "–");
      if (!last) return setText(lastCell, "–");
      const [text, className] = RESULTS[last.result];
      const seconds = Math.max(0, Math.round((Date.parse(now) - Date.parse(last.at)) / 1000));
      const error = last.error ? `: ${last.error}` : "";
      setText(lastCell, `${text} ${duration(seconds)} ago, in ${last.duration} ms${error}`);
      lastCell.className = `wrap ${className}`;
    },
  );
}

export function updateHosts({ bus }) {
  byId("bus").hidden = !bus;
  if (!bus) return;
  const state = byId("bus-state");
  setText(state, bus.state);
  state.className = bus.state === "up" ? "good" : "bad";
  updateList(
    byId("hosts"),
    bus.hosts,
    (host) => host,
    (host) => element("li", { className: "code", textContent: host === bus.host ? `${host} (this host)` : host }),
    () => {},
  );
}
