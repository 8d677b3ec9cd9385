// Creates and updates receipts. Keep in sync with components/page/src/receipt.rs.

import { isFinal } from "./changes.js";
import { ageStage, formatAge } from "./clock.js";

// Creating these is slow.
const SHORT_TIME = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const FULL_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

const LABELS = {
  received: ["Received", "Fire"],
  fired: ["Fired", "Fulfil"],
  fulfilled: ["Fulfilled", ""],
  cancelled: ["Cancelled", ""],
};

export function createReceipt({ id, timestamp, destination, status, items = [], notes }) {
  const time = element("time", { datetime: timestamp });
  localizeTime(time);
  const receipt = element(
    "li",
    { class: "receipt", "data-id": id },
    element(
      "article",
      { class: "paper", "aria-labelledby": `order-${id}`, tabindex: -1 },
      element("p", { class: "state" }, element("span", { class: "label" }), element("span", { class: "age" })),
      element("p", { class: "brand" }, time, " Socket Burger"),
      element("h2", { id: `order-${id}` }, "Order #: ", element("b", {}, id)),
      element("p", { class: "destination" }, destination),
      element(
        "ul",
        { class: "items" },
        ...items.map(({ name, substitutions }) =>
          element("li", {}, `1 ${name}`, ...textList("substitutions", substitutions)),
        ),
      ),
      ...textList("notes", notes),
      element(
        "p",
        { class: "actions" },
        button("advance", id),
        button("cancel", id, "Cancel"),
      ),
    ),
  );
  showStatus(receipt, status);
  return receipt;
}

export function showStatus(receipt, status) {
  receipt.dataset.status = status;
  const [label, action] = LABELS[status] ?? [status, ""];
  receipt.querySelector(".label").textContent = label;
  receipt.querySelector(".advance").textContent = action;
}

export function showAge(receipt, { timestamp, status }, now) {
  const age = now - Date.parse(timestamp);
  const isWaiting = !isFinal(status) && !Number.isNaN(age);
  const text = isWaiting ? formatAge(age) : "";
  const ageElement = receipt.querySelector(".age");
  if (ageElement.textContent === text) return;
  ageElement.textContent = text;
  receipt.dataset.age = isWaiting ? ageStage(age) : "";
}

export function localizeTime(time) {
  const date = new Date(time.dateTime);
  const isValid = !Number.isNaN(date.valueOf());
  time.textContent = isValid ? SHORT_TIME.format(date) : time.dateTime;
  time.title = isValid ? FULL_TIME.format(date) : "";
}

function textList(name, texts = []) {
  if (texts.length === 0) return [];
  return [element("ul", { class: name }, ...texts.map((text) => element("li", {}, text)))];
}

/** The description tells buttons of the same name apart. */
function button(name, id, ...text) {
  const attributes = { class: name, type: "button", tabindex: -1, "aria-describedby": `order-${id}` };
  return element("button", attributes, ...text);
}

function element(name, attributes, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...children);
  return created;
}
