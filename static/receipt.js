// Builds receipts and keeps them true. components/page/src/receipt.rs writes the
// same elements as HTML: change both, or neither.

import { isDone } from "./changes.js";
import { readable, stage } from "./clock.js";

/** The time of day, and all that there is to know. Made once: that takes a while. */
const BRIEF = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** What a status is called, and what the button says that leads on from it. */
const WORDS = {
  received: ["Received", "Fire"],
  fired: ["Fired", "Fulfil"],
  fulfilled: ["Fulfilled", ""],
  cancelled: ["Cancelled", ""],
};

/** An order as a list item. Its text becomes text, never markup. */
export function receipt({ id, timestamp, destination, status, items = [], notes }) {
  const time = element("time", { datetime: timestamp });
  localise(time);
  const made = element(
    "li",
    { class: "receipt", "data-id": id },
    element(
      "article",
      { class: "paper", "aria-labelledby": `order-${id}`, tabindex: -1 },
      element("p", { class: "state" }, element("span", { class: "word" }), element("span", { class: "age" })),
      element("p", { class: "brand" }, time, " Socket Burger"),
      element("h2", { id: `order-${id}` }, "Order #: ", element("b", {}, id)),
      element("p", { class: "destination" }, destination),
      element(
        "ul",
        { class: "items" },
        ...items.map(({ name, substitutions }) =>
          element("li", {}, `1 ${name}`, ...lines("substitutions", substitutions)),
        ),
      ),
      ...lines("notes", notes),
      element(
        "p",
        { class: "actions" },
        button("onwards", id),
        button("cancel", id, "Cancel"),
      ),
    ),
  );
  showStatus(made, status);
  return made;
}

/** Shows the status on a receipt, whatever it showed before. */
export function showStatus(receipt, status) {
  receipt.dataset.status = status;
  const [word, verb] = WORDS[status] ?? [status, ""];
  receipt.querySelector(".word").textContent = word;
  receipt.querySelector(".onwards").textContent = verb;
}

/** Shows how long an order has waited; of one that is done, nothing. */
export function showAge(receipt, { timestamp, status }, now) {
  const age = now - Date.parse(timestamp);
  const waits = !isDone(status) && !Number.isNaN(age);
  const text = waits ? readable(age) : "";
  const shown = receipt.querySelector(".age");
  if (shown.textContent === text) return;
  shown.textContent = text;
  receipt.dataset.age = waits ? stage(age) : "";
}

/** Shows a `<time>` in the reader's own zone and format, and all of it to who asks. */
export function localise(time) {
  const date = new Date(time.dateTime);
  const isTime = !Number.isNaN(date.valueOf());
  time.textContent = isTime ? BRIEF.format(date) : time.dateTime;
  time.title = isTime ? FULL.format(date) : "";
}

/** An empty list is no element at all. */
function lines(name, texts = []) {
  if (texts.length === 0) return [];
  return [element("ul", { class: name }, ...texts.map((text) => element("li", {}, text)))];
}

/** One of many that are called the same: it tells whose it is. */
function button(name, id, ...text) {
  const attributes = { class: name, type: "button", tabindex: -1, "aria-describedby": `order-${id}` };
  return element("button", attributes, ...text);
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
