// Builds and updates elements. Text is always set as text, never as HTML.

/** Returns the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Creates an element with properties and children. */
export function element(name, properties = {}, ...children) {
  const created = document.createElement(name);
  Object.assign(created, properties);
  created.append(...children);
  return created;
}

/** Sets the text of an element, unless it is the same. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Makes the children of `parent` those of `entries`, in their order. Children with the same key are kept, and with
 * them the focus. `create` makes a child, and `update` shows an entry in it.
 */
export function updateList(parent, entries, keyOf, create, update) {
  const former = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const entry of entries) {
    const key = String(keyOf(entry));
    let child = former.get(key);
    former.delete(key);
    if (!child) {
      child = create(entry);
      child.dataset.key = key;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, entry);
  }
  for (const child of former.values()) child.remove();
}

/** Creates a cell of a table. */
export const cell = (className = "", ...children) => element("td", { className }, ...children);

/** Creates the first cell of a row. */
export const rowHeader = (...children) => element("th", { scope: "row" }, ...children);

let noticeTimer;

/** Shows a message for a while. */
export function notify(text, isError = false) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.className = isError ? "bad" : "";
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (notice.textContent = ""), 6000);
}

/** Runs an action of the user, and shows why it failed. */
export async function attempt(action) {
  try {
    const text = await action();
    if (text) notify(text);
  } catch (error) {
    notify(error.message, true);
  }
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en");

/** Formats a number, such as 12,345 or 1.2M. */
export const count = (number) => (number < 100_000 ? exact.format(Math.round(number)) : compact.format(number));

/** Formats a rate, such as 0.4 or 1,200. */
export const rate = (number) => (number > 0 && number < 10 ? number.toFixed(1) : count(number));

/** Formats bytes, such as 12.5 MiB. */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

/** Formats seconds as a duration, such as 3 m 20 s. */
export function duration(seconds) {
  const parts = [
    [86_400, "d"],
    [3600, "h"],
    [60, "m"],
    [1, "s"],
  ];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .map(([size, unit], index) => [Math.floor(index === 0 ? seconds / size : (seconds % parts[first][0]) / size), unit])
    .filter(([number], index) => index === 0 || number > 0)
    .map(([number, unit]) => `${number} ${unit}`)
    .join(" ");
}

/** Formats a time that a request or a delivery takes, in seconds. */
export function latency(seconds) {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}
