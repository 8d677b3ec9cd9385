// The last lines of the log.

import { getJson } from "./api.js";
import { byId, element } from "./dom.js";

const MAX_LINES = 500;

function className(line) {
  if (/\bERROR\b/.test(line)) return "error";
  return /\bWARN\b/.test(line) ? "warn" : "";
}

export class Log {
  #next = 0;

  async update() {
    const { lines, next } = await getJson(`/log/?since=${this.#next}`);
    const log = byId("log");
    // The host was restarted.
    if (next < this.#next) log.replaceChildren();
    this.#next = next;
    if (lines.length === 0) return;
    // Follows the end, unless someone reads earlier lines.
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(...lines.map((line) => element("div", { className: className(line), textContent: line })));
    while (log.children.length > MAX_LINES) log.firstElementChild.remove();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }
}
